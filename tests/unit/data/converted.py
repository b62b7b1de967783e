"""Rows and rejects of a conversion, as plain data."""

import json

import pyarrow.parquet as pq


def rows_of(result, split=None):
    files = [f for name, part in result.files.items() for f in part if split in (None, name)]
    return [row for file in files for row in pq.read_table(file).to_pylist()]


def by_id(result):
    return {row["extra_info"]["sample_id"]: row for row in rows_of(result)}


def truth(row):
    return json.loads(row["reward_model"]["ground_truth"])


def rejects(result):
    return [json.loads(line) for line in (result.out / "rejects.jsonl").read_text().splitlines()]
