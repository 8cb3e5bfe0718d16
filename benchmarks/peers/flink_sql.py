"""Flink SQL through PyFlink: Flink's own operators in one Java process; Python only submits the statements.

Tuned: streaming mode with object reuse, parallelism 1, mini-batches in joins and sums of up to 100,000 rows, so that
sums change seldom (without them every event gives two changes of its sum). One OVER window judges repeats and
conflicts. Changes go to the print sink (fetched row by row through Python, 100,000 events did not end in two minutes).
Planning the statement takes seconds and is not counted. Not durable: no checkpoints, state on the heap.
"""

import os
import sys
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from pyflink.java_gateway import get_gateway
from pyflink.table import EnvironmentSettings, TableEnvironment

from benchmarks.peers.task import LINKS, Outcome, measure_timed, name_of

SETTINGS = {
    "parallelism.default": "1",
    "pipeline.object-reuse": "true",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "5 s",
    "table.exec.mini-batch.size": "100000",
    "table.optimizer.agg-phase-strategy": "ONE_PHASE",
    "restart-strategy.type": "none",
    "rest.bind-address": "127.0.0.1",
    "rest.address": "127.0.0.1",
    "jobmanager.bind-host": "127.0.0.1",
    "taskmanager.bind-host": "127.0.0.1",
}
COLUMNS = (
    "event_id STRING, source STRING, kind STRING, entity STRING, facility STRING, account STRING, document STRING, "
    "reference STRING, counterparty STRING, department STRING, reason STRING, amount_minor BIGINT, currency STRING, "
    "quantity STRING, occurred_at BIGINT, effective_on STRING, correlation_id STRING, schema_version INT, "
    "attributes STRING"
)
NAMES = [column.split()[0] for column in COLUMNS.split(", ")]
CONTENT = ", ".join(f"CAST({name} AS STRING)" for name in NAMES)
SOURCE = """
CREATE TEMPORARY TABLE events (seq BIGINT, {columns}, came AS PROCTIME()) WITH (
  'connector' = 'filesystem', 'path' = '{path}', 'format' = 'csv')
"""


def _items(column: int) -> str:
    """What a kind waits for (0) or opens (1), as `item:name`; NULL for other kinds."""
    named = {kind: link[column] for kind, link in LINKS.items() if link[column]}
    cases = (f"WHEN '{kind}' THEN CONCAT('{item}:', {name})" for kind, (item, name) in named.items())
    return f"CASE kind {' '.join(cases)} END"


SINK = """
CREATE TEMPORARY TABLE answers (what STRING, a STRING, b STRING, c STRING, d STRING, e STRING, amount BIGINT)
WITH ('connector' = 'print')
"""
# All answers in one statement: (what, name of an event or dimensions of a sum, amount). Sums come as changes.
ANSWERS = f"""
INSERT INTO answers WITH judged AS (
  SELECT *, COUNT(*) OVER ids AS place, FIRST_VALUE(content) OVER ids AS original
  FROM (
    SELECT source, event_id, kind, entity, COALESCE(facility, '') AS facility, COALESCE(department, '') AS department,
           SUBSTRING(effective_on, 1, 7) AS month_, amount_minor, {_items(0)} AS waits, {_items(1)} AS opens, came,
           MD5(CONCAT_WS('|', {CONTENT})) AS content
    FROM events)
  WINDOW ids AS (PARTITION BY source, event_id ORDER BY came ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
), fresh AS (SELECT * FROM judged WHERE place = 1),
matched AS (
  SELECT w.source, w.event_id, w.kind, w.entity, w.facility, w.department, w.month_, w.amount_minor
  FROM fresh w JOIN (SELECT opens FROM fresh WHERE opens IS NOT NULL) o ON w.waits = o.opens
), ready AS (
  SELECT entity, facility, department, month_, kind, amount_minor FROM fresh WHERE waits IS NULL
  UNION ALL SELECT entity, facility, department, month_, kind, amount_minor FROM matched)
SELECT CASE WHEN content = original THEN 'repeat' ELSE 'conflict' END AS what,
       source, event_id, '', '', '', CAST(1 AS BIGINT) FROM judged WHERE place > 1
UNION ALL SELECT 'linked', source, event_id, '', '', '', CAST(1 AS BIGINT) FROM fresh WHERE waits IS NOT NULL
UNION ALL SELECT 'matched', source, event_id, '', '', '', CAST(1 AS BIGINT) FROM matched
UNION ALL SELECT 'sum', entity, facility, department, month_, kind, SUM(amount_minor) FROM ready
GROUP BY entity, facility, department, month_, kind
"""


def _environment(folder: Path) -> TableEnvironment:
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in SETTINGS.items():
        tables.get_config().set(name, value)
    tables.execute_sql(SOURCE.format(columns=COLUMNS, path=(folder / "rows").resolve()))
    tables.execute_sql(SINK)
    return tables


def run(folder: Path, printed: Path) -> tuple[float, Outcome]:
    """The task over a folder of events, and the seconds that the job ran by Flink's own account, planning left out."""
    before = printed.stat().st_size
    job = _environment(folder).execute_sql(ANSWERS)
    job.wait()
    seconds = job.get_job_client().get_job_execution_result().result().get_net_runtime() / 1000
    with printed.open() as file:
        file.seek(before)
        return seconds, _outcome(file)


def _outcome(changes: Iterable[str]) -> Outcome:
    """What lines as `+I[sum, entity-04, ..., 120]` come to; -U and -D take back what was said before."""
    found: dict[str, set[str]] = {what: set() for what in ("conflict", "linked", "matched")}
    repeats, sums = 0, Counter()
    for change in changes:
        what, *key, amount = change.strip()[3:-1].split(", ")
        if what == "sum":
            sums[tuple(key)] += int(amount) if change[0] == "+" else -int(amount)
        elif what == "repeat":
            repeats += 1
        else:
            found[what].add(name_of(*key[:2]))
    return Outcome(repeats, list(found["conflict"]), list(found["linked"] - found["matched"]), dict(sums))


def main() -> None:
    """Start Java with its standard output in a file, where Flink's print sink writes, and measure."""
    printed = Path(sys.argv[1]) / "printed"
    ours = os.dup(sys.stdout.fileno())
    with printed.open("wb") as file:
        os.dup2(file.fileno(), sys.stdout.fileno())
        get_gateway()
        os.dup2(ours, sys.stdout.fileno())
    measure_timed(lambda folder: run(folder, printed))


if __name__ == "__main__":
    main()
