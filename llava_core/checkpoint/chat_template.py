"""Writes a prompt template as the Jinja text that transformers, vLLM and SGLang render.

Texts come out as `conversation.render` writes them, and pictures go where `place_image_mark` puts
them. A first message of the system's takes the place of the template's own system text.
"""

import json

from llava_core.conversation import IMAGE_MARK, Template
from llava_core.errors import ConfigError

# What a message says: its pictures in front, each on a line of its own, then its texts.
_CONTENT = (
    "{%- macro say(content) -%}"
    "{%- if content is string -%}{{ content }}{%- else -%}"
    "{%- for part in content if part['type'] == 'image' -%}{{ "
    + json.dumps(f"{IMAGE_MARK}\n")
    + " }}{%- endfor -%}"
    "{%- for part in content if part['type'] == 'text' -%}{{ part['text'] }}{%- endfor -%}"
    "{%- endif -%}{%- endmacro -%}"
)
_SYSTEM = (
    "{%%- if messages and messages[0]['role'] == 'system' -%%}"
    "{%%- set system, turns = say(messages[0]['content']), messages[1:] -%%}"
    "{%%- else -%%}{%%- set system, turns = %s, messages -%%}{%%- endif -%%}"
)
_NAMED = (
    "{{ system + %(sep)s }}"
    "{%%- for message in turns -%%}"
    "{%%- if message['role'] == 'user' -%%}"
    "{{ %(user)s + say(message['content'])%(filter)s + %(sep)s }}"
    "{%%- else -%%}"
    "{{ %(assistant)s + say(message['content'])%(filter)s + %(end)s }}"
    "{%%- endif -%%}{%%- endfor -%%}"
    "{%%- if add_generation_prompt -%%}{{ %(opening)s }}{%%- endif -%%}"
)
_LLAMA_2 = (
    '{%%- set system = "<<SYS>>\\n" + system + "\\n<</SYS>>\\n\\n" if system else "" -%%}'
    "{%%- for message in turns -%%}"
    "{%%- if message['role'] == 'user' -%%}"
    '{{ (%(sep)s if not loop.first else "") + "[INST] " + (system if loop.first else "")'
    " + say(message['content']) + \" [/INST]\" }}"
    "{%%- else -%%}"
    '{{ " " + say(message[\'content\']) + " " + %(end)s }}'
    "{%%- endif -%%}{%%- endfor -%%}"
)


def chat_template(template: Template) -> str:
    """Writes a template as Jinja.

    Raises:
        ConfigError: it shows the model turns of its own, which Jinja text cannot hold.
    """
    if template.preset or "mmtag" in template.version or template.style == "plain":
        raise ConfigError(f"{template.name} cannot be written as a chat template")
    colon, space = (":", " ") if template.style in ("single", "two") else ("", "")
    user, assistant = template.roles
    values = {
        "sep": template.sep,
        "end": template.end,
        "user": user + colon + space,
        "assistant": assistant + colon + space,
        "opening": assistant + colon,
    }
    body = _LLAMA_2 if template.style == "llama_2" else _NAMED
    strip = " | trim" if template.style == "llama_3" else ""
    filled = body % {**{name: json.dumps(v) for name, v in values.items()}, "filter": strip}
    return _CONTENT + _SYSTEM % json.dumps(template.system) + filled
