"""Rows that hand something to tools, where sessions show several sources."""

from verl_mars.data.row_checks import RowRules


def test_tools_of_several_sources_are_refused(make_row):
    row = make_row(0, extra={"tools_kwargs": {"zoom": {"image": 0}}})
    third = {**row["sources"][1], "name": "third"}
    row["sources"] = [{**source, "tools_kwargs": "{}"} for source in (*row["sources"], third)]

    def problems(**rules):
        return [problem for problem in RowRules(**rules).problems(row) if problem.code == "tools"]

    (problem,) = problems(join_sources=True)
    assert problem.key == "extra_info.tools_kwargs" and "use anchors=mono" in problem.message
    assert problems() == []
    row["sources"].pop()
    assert problems(join_sources=True) == [], "all but one of two is one"
