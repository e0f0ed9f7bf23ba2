import pytest
from optim_cases import DIMS, arrays, section

from configs.base import language_model
from lmjax import optim
from lmjax.errors import UserError


def table(rules):
    rows = optim.build(section(rules=rules), 10, arrays(), DIMS).table
    return {row.path: row for row in rows}


def test_each_parameter_is_in_the_table_with_what_its_rule_says():
    found = table(
        {
            "vectors": {"match": ".*(scale|bias)", "decay": 0.0},
            "heads": {"match": "blocks/(query|out)", "rate": 0.5},
            "others": {"match": "rest", "freeze": True},
        }
    )
    assert found["blocks/query"] == ("blocks/query", (2, 6, 2, 3), "heads", 1.0, 0.5, False, "adamw", 1.0)
    assert found["blocks/up"] == ("blocks/up", (2, 6, 8), "others", 1.0, 1.0, True, "frozen", 1.0)
    assert {path for path, row in found.items() if row.rule == "vectors"} == {
        "blocks/scale", "blocks/up_bias", "final/scale"}  # fmt: skip


def test_without_rules_every_parameter_decays_and_learns_at_the_full_rate():
    assert {row[2:6] for row in table({}).values()} == {("default", 1.0, 1.0, False)}


def test_the_rules_that_a_language_model_starts_with_fit_its_parameters():
    rows = optim.build(language_model().optim, 10, arrays(), DIMS).table
    assert {row.path for row in rows if row.decay == 0} == {"blocks/scale", "blocks/up_bias", "final/scale"}


def test_a_rule_must_match_the_whole_path():
    with pytest.raises(UserError, match="rules.heads matches no parameter: 'query'.*Nearest: .*blocks/query"):
        table({"heads": {"match": "query"}, "others": {"match": "rest"}})


def test_a_parameter_without_a_rule_is_named_with_its_neighbours():
    with pytest.raises(UserError, match="no rule .*covers the parameter 'embed'.*match='rest'"):
        table({"blocks": {"match": "blocks/.*"}, "final": {"match": "final/.*"}})


def test_a_parameter_under_two_rules_is_named_with_both():
    with pytest.raises(UserError, match="'blocks/query' is matched by 2 rules.*blocks .'blocks/.*heads"):
        table({"blocks": {"match": "blocks/.*"}, "heads": {"match": ".*query"}, "others": {"match": "rest"}})


def test_two_rules_cannot_both_take_the_rest():
    with pytest.raises(UserError, match="a and b both have match='rest'"):
        table({"a": {"match": "rest"}, "b": {"match": "rest"}})


def test_the_rest_may_be_nothing():
    assert table({"all": {"match": ".*"}, "others": {"match": "rest"}})["embed"].rule == "all"


@pytest.mark.parametrize(
    "rule, says",
    [
        ({"match": "blocks/(query"}, "optim.rules.x.match=.* is no regular expression"),
        ({"match": ".*", "decay": -1.0}, "optim.rules.x.decay=-1.0"),
        ({"match": ".*", "freeze": True}, "freezes every parameter"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused(rule, says):
    with pytest.raises(UserError, match=says):
        table({"x": rule})
