import asyncio
import os

from openai import AsyncOpenAI

client = AsyncOpenAI(
    api_key=os.getenv("DASHSCOPE_API_KEY"),
    base_url="https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
)


async def main():
    stream = await client.chat.completions.create(
        model="qwen-max",
        messages=[{"role": "user", "content": "9.9和9.11谁大"}],
        stream=True,
    )
    async for chunk in stream:
        print(chunk.choices[0].delta.content, end="", flush=True)
    await client.close()


asyncio.run(main())
