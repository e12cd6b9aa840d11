import os
from http import HTTPStatus

import dashscope
from dashscope import Generation

dashscope.base_http_api_url = "https://dashscope-intl.aliyuncs.com/api/v1"

responses = Generation.call(
    api_key=os.getenv("DASHSCOPE_API_KEY"),
    model="qwen-plus",
    messages=[
        {"role": "system", "content": "you are a helpful assistant"},
        {"role": "user", "content": "请介绍一下你自己"},
    ],
    result_format="message",
    stream=True,
    incremental_output=True,
)

content_parts = []
for response in responses:
    if response.status_code == HTTPStatus.OK:
        content = response.output.choices[0].message.content
        print(content, end="", flush=True)
        content_parts.append(content)
        if response.output.choices[0].finish_reason == "stop":
            print("\n--- 请求用量 ---")
            print(f"输入 Tokens: {response.usage.input_tokens}")
            print(f"输出 Tokens: {response.usage.output_tokens}")
    else:
        print(f"请求失败: {response.status_code} {response.code} {response.message}")

print("--- 完整回复 ---")
print("".join(content_parts))
