"""The generated stubs are what the contract in proto/penstock/v1 says: nobody edits them, nobody forgets them."""

import subprocess
import sys
from pathlib import Path

import pytest
from penstock.v1 import events_pb2

from runtime.schema import COLUMNS

PROTO = Path(__file__).resolve().parent.parent / "proto"
CONTRACTS = sorted(PROTO.glob("penstock/v1/*.proto"))


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of freshly generated stubs."""
    out = tmp_path_factory.mktemp("stubs")
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    command = [sys.executable, "-m", "grpc_tools.protoc", "-I", str(PROTO), *outputs, *map(str, CONTRACTS)]
    subprocess.run(command, check=True, timeout=60)
    return out


def test_stubs_generated_anew_are_the_committed_ones(generated: Path):
    """Generating gives the files that lie in the repository, byte for byte; `make proto` brings them up to date."""
    made = {path.relative_to(generated) for path in generated.rglob("*.py*") if path.is_file()}
    assert len(made) == 3 * len(CONTRACTS) > 0
    for name in made:
        assert (PROTO / name).read_bytes() == (generated / name).read_bytes(), name


def test_stubs_contract_has_a_comment_on_every_line_that_declares():
    """Every message, field, enum value and method of the contract is described where it is declared."""
    for path in CONTRACTS:
        lines = [line.strip() for line in path.read_text().splitlines()]
        for before, line in zip(lines, lines[1:], strict=False):
            declares = line.endswith("{") or "=" in line or line.startswith("rpc")
            if declares and not line.startswith(("//", "syntax", "oneof")):
                assert before.startswith("//"), f"{path.name}: {line}"


def test_stubs_event_fields_are_the_canonical_columns():
    """A message holds every canonical column, in the same order, and nothing else."""
    fields = [field.name for field in events_pb2.FinancialEvent.DESCRIPTOR.fields]
    assert [name.replace("occurred_at_ms", "occurred_at") for name in fields] == list(COLUMNS)
