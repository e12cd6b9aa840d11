"""Names for the hosts where Qwen is served, so that a name and a key are enough for a configuration.

    qwen-singapore              a region's public host
    qwen-singapore/llm-abc123   a workspace's own host in that region
    qwen-coding                 a subscription's host

Source: Alibaba Cloud Model Studio, "Regions and base URLs". A key is bound to its region.
"""

import re
from typing import Final

# Region: its public host ("" for none) and its name in workspace hosts.
_REGIONS: Final = {
    "qwen-beijing": ("dashscope.aliyuncs.com", "cn-beijing"),
    "qwen-singapore": ("dashscope-intl.aliyuncs.com", "ap-southeast-1"),
    "qwen-us": ("dashscope-us.aliyuncs.com", "us-east-1"),
    "qwen-hongkong": ("cn-hongkong.dashscope.aliyuncs.com", "cn-hongkong"),
    "qwen-frankfurt": ("", "eu-central-1"),
    "qwen-tokyo": ("", "ap-northeast-1"),
}
# Their base URLs are documented with a path, and without a test of which others they serve.
_SUBSCRIPTIONS: Final = {
    "qwen-coding": "https://coding.dashscope.aliyuncs.com/v1",
    "qwen-coding-intl": "https://coding-intl.dashscope.aliyuncs.com/v1",
    "qwen-tokens": "https://token-plan.cn-beijing.maas.aliyuncs.com/compatible-mode/v1",
    "qwen-tokens-singapore": "https://token-plan.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1",
}
DEFAULT: Final = "qwen-singapore"
_WORKSPACE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")  # one label of a host name


def resolve(name: str) -> str:
    """Return the base URL of a preset; a text that does not begin with `qwen-` is no preset and is returned unchanged.

    Raises: ValueError, which names the presets there are.
    """
    if not name.startswith("qwen-"):
        return name
    if name in _SUBSCRIPTIONS:
        return _SUBSCRIPTIONS[name]
    region, slash, workspace = name.partition("/")
    if region not in _REGIONS:
        raise ValueError(f"{name[:60]!r} is not a preset; there are {_known()}")
    host, place = _REGIONS[region]
    if slash:
        if not _WORKSPACE.fullmatch(workspace):
            raise ValueError(f"{workspace[:60]!r} is not a workspace id; only letters, digits and hyphens are allowed")
        return f"https://{workspace}.{place}.maas.aliyuncs.com"
    if not host:
        raise ValueError(f"{region} has no public host, only those of workspaces: {region}/WORKSPACE")
    return f"https://{host}"


def names() -> list[str]:
    """Return the names of all presets."""
    regions = (region if host else f"{region}/WORKSPACE" for region, (host, _) in _REGIONS.items())
    return [*regions, *_SUBSCRIPTIONS]


def _known() -> str:
    return f"{', '.join(names())}, and REGION/WORKSPACE for a workspace's own host"
