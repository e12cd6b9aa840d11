import os

from openai import OpenAI

client = OpenAI(
    api_key=os.getenv("DASHSCOPE_API_KEY"),
    base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
)
tools = [
    {
        "type": "function",
        "function": {
            "name": "get_current_weather",
            "description": "当你想查询指定城市的天气时非常有用。",
            "parameters": {
                "type": "object",
                "properties": {"location": {"type": "string", "description": "城市或县区,比如北京市、杭州市等。"}},
                "required": ["location"],
            },
        },
    }
]
stream = client.chat.completions.create(
    model="qwen-plus",
    messages=[{"role": "user", "content": "杭州和上海天气怎么样"}],
    tools=tools,
    parallel_tool_calls=True,
    stream=True,
)

tool_calls = {}
for chunk in stream:
    for tool_call in chunk.choices[0].delta.tool_calls or []:
        call = tool_calls.setdefault(tool_call.index, {"id": "", "name": "", "arguments": ""})
        call["id"] += tool_call.id or ""
        call["name"] += tool_call.function.name or ""
        call["arguments"] += tool_call.function.arguments or ""
    if chunk.choices[0].finish_reason:
        print(chunk.choices[0].finish_reason)
print(tool_calls)
