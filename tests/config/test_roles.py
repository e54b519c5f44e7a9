"""Every key of a training configuration decides one thing."""

from meap.config import RecipeConfig, Role, role_of
from meap.config.keys import config_keys
from meap.config.roles import ROLES


def leaves() -> set[str]:
    """Keys that hold a value, not a section or a mapping of sections."""
    keys = set(config_keys(RecipeConfig))
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def test_every_key_has_exactly_one_role():
    assert leaves() == ROLES.keys()


def test_a_key_of_a_stream_has_the_role_of_any_stream_s():
    assert role_of("data.streams.web.remote") is role_of("data.remote") is Role.SOURCE
    assert role_of("data.streams.web.proportion") is Role.RESULT


def test_what_is_not_known_decides_the_result():
    assert role_of("model.unheard_of") is Role.RESULT
