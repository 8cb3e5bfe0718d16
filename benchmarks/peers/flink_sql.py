"""Flink SQL through PyFlink: Flink's own operators in one Java process; Python only submits the statements.

Tuned: streaming mode with object reuse, parallelism 1, mini-batches in joins and sums of up to 100,000 rows, so that
sums change seldom (without them every event gives two changes of its sum). One OVER window judges repeats and
conflicts. Not durable: no checkpoints, state on the heap.
"""

from collections import Counter
from pathlib import Path

from pyflink.common import RowKind
from pyflink.table import EnvironmentSettings, TableEnvironment

from benchmarks.peers.task import LINKS, Outcome, measure, name_of

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
CONTENT = ", ".join(
    f"CAST({column.split()[0]} AS STRING)" for column in COLUMNS.split(", ") if column.split()[0] != "source"
)
KINDS_LINKED = ", ".join(f"'{kind}'" for kind in LINKS)
SOURCE = """
CREATE TEMPORARY TABLE events (seq BIGINT, {columns}, came AS PROCTIME()) WITH (
  'connector' = 'filesystem', 'path' = '{path}', 'format' = 'csv')
"""
JUDGED = f"""
CREATE TEMPORARY VIEW judged AS SELECT *, COUNT(*) OVER ids AS place, FIRST_VALUE(content) OVER ids AS original
FROM (SELECT *, MD5(CONCAT_WS('|', {CONTENT})) AS content FROM events)
WINDOW ids AS (PARTITION BY source, event_id ORDER BY came ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW)
"""
VIEWS = {
    "fresh": "SELECT * FROM judged WHERE place = 1",
    "authorised": "SELECT * FROM fresh WHERE kind = 'card_authorised'",
    "captured": "SELECT c.* FROM fresh c JOIN authorised a ON c.reference = a.document WHERE c.kind = 'card_captured'",
    "settled": "SELECT s.* FROM fresh s JOIN fresh c ON s.document = c.document "
    "WHERE s.kind = 'card_settled' AND c.kind = 'card_captured'",
    "ready": "SELECT * FROM fresh WHERE kind NOT IN ({linked}) UNION ALL SELECT * FROM authorised "
    "UNION ALL SELECT * FROM captured UNION ALL SELECT * FROM settled",
}
# One statement of all answers: (what, name or dimensions, amount). It is run to its end and collected as changes.
ANSWERS = """
SELECT CASE WHEN content = original THEN 'repeat' ELSE 'conflict' END,
       source, event_id, '', '', '', CAST(1 AS BIGINT) FROM judged WHERE place > 1
UNION ALL SELECT 'linked', source, event_id, '', '', '', CAST(1 AS BIGINT) FROM fresh WHERE kind IN ({linked})
UNION ALL SELECT 'matched', source, event_id, '', '', '', CAST(1 AS BIGINT) FROM ready WHERE kind IN ({linked})
UNION ALL SELECT 'sum', entity, COALESCE(facility, ''), COALESCE(department, ''), month_, kind, SUM(amount_minor)
FROM (SELECT *, SUBSTRING(effective_on, 1, 7) AS month_ FROM ready)
GROUP BY entity, facility, department, month_, kind
"""


def _environment(folder: Path) -> TableEnvironment:
    tables = TableEnvironment.create(EnvironmentSettings.in_streaming_mode())
    for name, value in SETTINGS.items():
        tables.get_config().set(name, value)
    tables.execute_sql(SOURCE.format(columns=COLUMNS, path=(folder / "rows").resolve()))
    tables.execute_sql(JUDGED)
    for name, query in VIEWS.items():
        tables.execute_sql(f"CREATE TEMPORARY VIEW {name} AS {query.format(linked=KINDS_LINKED)}")
    return tables


def run(folder: Path) -> Outcome:
    """The task over a folder of events."""
    found: dict[str, set[str]] = {what: set() for what in ("repeat", "conflict", "linked", "matched")}
    repeats, sums = 0, Counter()
    with _environment(folder).execute_sql(ANSWERS.format(linked=KINDS_LINKED)).collect() as changes:
        for change in changes:
            what, *key, amount = change
            if what == "sum":
                added = change.get_row_kind() in (RowKind.INSERT, RowKind.UPDATE_AFTER)
                sums[tuple(key)] += amount if added else -amount
            elif what == "repeat":
                repeats += 1
            else:
                found[what].add(name_of(*key[:2]))
    return Outcome(repeats, list(found["conflict"]), list(found["linked"] - found["matched"]), dict(sums))


if __name__ == "__main__":
    measure(run)
