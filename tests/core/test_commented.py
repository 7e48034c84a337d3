import pytest
import yaml

from interplant.core import commented, config
from interplant.core.schema import Connection, Plant

PLANT = Plant(name="plant-1", federation="demo", connection=Connection(coordinator="127.0.0.1:7443"))


def test_comments_stand_above_their_keys_and_change_nothing(tmp_path):
    text = commented.to_yaml(PLANT, "Head.", {"policy": "Outer.", "policy.privacy.epsilon": "Inner."})
    lines = text.splitlines()
    assert lines[0] == "# Head."
    assert lines[lines.index("policy:") - 1] == "# Outer."
    assert lines[lines.index("    epsilon: 1.0") - 1] == "    # Inner."
    assert yaml.safe_load(text) == config.dump(PLANT)
    (tmp_path / "plant.yaml").write_text(text)
    assert config.load(tmp_path / "plant.yaml", Plant) == PLANT


def test_key_of_the_same_name_elsewhere_gets_no_comment():
    text = commented.to_yaml(PLANT, "Head.", {"name": "Once."})
    assert text.count("# Once.") == 1


def test_long_words_are_folded():
    text = commented.to_yaml(PLANT, "word " * 60, {})
    assert all(len(line) <= 96 for line in text.splitlines())


def test_comment_without_a_key_is_a_mistake():
    with pytest.raises(KeyError, match=r"policy\.epsilon"):
        commented.to_yaml(PLANT, "Head.", {"policy.epsilon": "Where?"})
