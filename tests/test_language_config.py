"""Settings of a language model: who gets which key, what is refused, and that no key is shown."""

from __future__ import annotations

import math
from typing import Any

import pytest

from adarena.agents.language_config import make_config

KEY = "sk-0123456789-of-nobody"


def test_who_gets_which_key_and_limit() -> None:
    assert make_config(model="m").variable == "OPENAI_API_KEY"
    assert make_config(model="m").options()["max_completion_tokens"] == 1000
    deepseek = make_config(model="m", base_url="https://api.deepseek.com", temperature=None)
    assert deepseek.variable == "DEEPSEEK_API_KEY"
    assert deepseek.options() == {"model": "m", "max_tokens": 1000}
    assert make_config(model="m", key_variable="OTHER").variable == "OTHER"
    assert hash(deepseek) == hash(make_config(model="m", base_url="https://api.deepseek.com", temperature=None))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({}, "model must be"),
        ({"base_url": "api.deepseek.com"}, "base_url must be"),
        ({"base_url": "http://host:port/v1"}, "base_url must be"),
        ({"time_out": 0.0}, "time_out must be"),
        ({"time_out": None}, "time_out must be"),
        ({"retries": -1}, "retries must be"),
        ({"retries": True}, "retries must be"),
        ({"temperature": 2.5}, "temperature must be"),
        ({"most_tokens": 0}, "most_tokens must be"),
        ({"input_price": -1.0}, "input_price must be"),
        ({"output_price": math.nan}, "output_price must be"),
        ({"ceiling": -0.1}, "ceiling must be"),
        ({"cache": ""}, "cache must be"),
        ({"every": 0}, "every must be"),
        ({"extra_body": "[]"}, "extra_body must be"),
        ({"extra_body": '{"stream": true}'}, "extra_body must be"),
        ({"extra_body": '{"top_p": NaN}'}, "extra_body must be"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], named: str) -> None:
    given = {"model": "m", **changes} if changes else {}
    with pytest.raises(ValueError, match=named):
        make_config(**given)


@pytest.mark.parametrize("field", ["key_variable", "base_url"])
def test_a_key_in_the_wrong_place_is_not_shown(field: str) -> None:
    given = KEY if field == "key_variable" else f"https://user:{KEY}@host/v1"
    with pytest.raises(ValueError, match=f"{field} must be") as told:
        make_config(model="m", **{field: given})
    assert KEY not in str(told.value)


def test_the_key_is_no_setting() -> None:
    with pytest.raises(TypeError, match="no field 'key'"):
        make_config(model="m", key=KEY)
