"""Files that look as if they held secrets, by their names and by what is in them.

What they hold is never shown: a reason names the kind and the line.
"""

from __future__ import annotations

import re
from fnmatch import fnmatch

_EXAMPLES = ("*.example", "*.sample", "*.template", "*.dist")
"""Names of files that show what a secret one looks like; their contents are still searched."""

_NAMES = {
    "an environment file": (".env", ".env.*", "*.env", ".envrc"),
    "a private key": ("id_rsa", "id_dsa", "id_ecdsa", "id_ed25519", "*.pem", "*.key", "*.ppk"),
    "a key store": ("*.p12", "*.pfx", "*.jks", "*.keystore", "*.kdbx"),
    "credentials": (
        ".netrc .pgpass .htpasswd .pypirc .npmrc .git-credentials .dockercfg credentials "
        "credentials.json client_secret*.json service-account*.json secrets.json secrets.toml "
        "secrets.yaml secrets.yml *.tfstate *.tfvars"
    ).split(),
}

# Nothing without a bound stands before something that may be missing: a file can be of any kind.
_CONTENTS = {
    "a private key": r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "an AWS key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "an AWS secret": (
        r"(?i)aws_secret_access_key['\"]?\s*[=:]\s*['\"]?[a-z0-9/+]{40}(?![a-z0-9/+])"
    ),
    "a GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})\b",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an API key": r"\bsk-(?:proj-|ant-[a-z0-9]+-|or-v1-)?[A-Za-z0-9_-]{32,}",
    "a Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{20,}",
    "a Google key": r"\bAIza[0-9A-Za-z_-]{35}",
    "a Stripe key": r"\b[rs]k_live_[0-9A-Za-z]{20,}",
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{34,}\b",
    "an npm token": r"\bnpm_[A-Za-z0-9]{36}\b",
    "a PyPI token": r"\bpypi-AgE[A-Za-z0-9_-]{50,}",
    "a JSON web token": r"\beyJ[\w-]{10,2000}\.eyJ[\w-]{10,9000}\.[\w-]{20,}",
    "a password in a URL": r"\b[a-z][a-z0-9+.-]{0,20}://[^\s:/@'\"<>{}$%]{1,200}:[^\s:/@'\"<>{}$%]{6,200}@\w",
}
_CONTENT = [(kind, re.compile(pattern)) for kind, pattern in _CONTENTS.items()]


def secret_name(name: str) -> str | None:
    """What a file of this name most likely is, if that is a secret."""
    lower = name.lower()
    if any(fnmatch(lower, pattern) for pattern in _EXAMPLES):
        return None
    for kind, patterns in _NAMES.items():
        if any(fnmatch(lower, pattern) for pattern in patterns):
            return kind
    return None


def secret_text(text: str) -> str | None:
    """Which secret a text seems to hold first, and on which line."""
    found = [(match.start(), kind) for kind, form in _CONTENT if (match := form.search(text))]
    if not found:
        return None
    start, kind = min(found)
    return f"{kind} on line {text.count(chr(10), 0, start) + 1}"
