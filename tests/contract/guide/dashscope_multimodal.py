import os

import dashscope
from dashscope import MultiModalConversation

dashscope.base_http_api_url = "https://dashscope-intl.aliyuncs.com/api/v1"

responses = MultiModalConversation.call(
    api_key=os.getenv("DASHSCOPE_API_KEY"),
    model="qwen3-vl-plus",
    messages=[
        {
            "role": "user",
            "content": [
                {"image": "https://dashscope.oss-cn-beijing.aliyuncs.com/images/dog_and_girl.jpeg"},
                {"text": "图中描绘的是什么景象？"},
            ],
        }
    ],
    stream=True,
    incremental_output=True,
)

full_content = ""
for response in responses:
    if response.output.choices[0].message.content:
        text = response.output.choices[0].message.content[0]["text"]
        print(text, end="", flush=True)
        full_content += text
print(f"\n完整内容：{full_content}")
