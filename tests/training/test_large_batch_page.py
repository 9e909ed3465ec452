"""The code blocks of docs/large_batch.md run."""

import pathlib
import re

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "large_batch.md"


def test_the_code_of_the_page_runs_and_says_what_it_gives():
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert names["model"].micro_batch_size == 32
    grown = names["grown"]
    assert grown.batch_size.batches == (100, 500, 1000)
    assert [round(rate, 9) for rate in grown.learning_rate.rates] == [0.1, 0.1, 0.04]
