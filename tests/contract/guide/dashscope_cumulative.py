import os
from http import HTTPStatus

import dashscope
from dashscope import Generation

dashscope.base_http_api_url = "https://dashscope-intl.aliyuncs.com/api/v1"

responses = Generation.call(
    api_key=os.getenv("DASHSCOPE_API_KEY"),
    model="qwen-plus",
    messages=[{"role": "user", "content": "请介绍一下你自己"}],
    result_format="message",
    stream=True,
)

full_content = ""
for response in responses:
    if response.status_code == HTTPStatus.OK:
        full_content = response.output.choices[0].message.content
        print(full_content)
    else:
        print(f"请求失败: {response.status_code} {response.code} {response.message}")

print("--- 完整回复 ---")
print(full_content)
