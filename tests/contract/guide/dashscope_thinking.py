import os

import dashscope
from dashscope import Generation

dashscope.base_http_api_url = "https://dashscope-intl.aliyuncs.com/api/v1"

completion = Generation.call(
    api_key=os.getenv("DASHSCOPE_API_KEY"),
    model="qwen-plus",
    messages=[{"role": "user", "content": "你是谁？"}],
    result_format="message",
    enable_thinking=True,
    stream=True,
    incremental_output=True,
)

is_answering = False
print("=" * 20 + "思考过程" + "=" * 20)
for chunk in completion:
    message = chunk.output.choices[0].message
    if message.content == "" and message.reasoning_content == "":
        continue
    if message.reasoning_content != "" and message.content == "":
        print(message.reasoning_content, end="", flush=True)
    elif message.content != "":
        if not is_answering:
            print("\n" + "=" * 20 + "完整回复" + "=" * 20)
            is_answering = True
        print(message.content, end="", flush=True)
