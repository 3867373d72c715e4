"""Hera's first page: a Workflow of scripts, without an Argo server: https://hera.readthedocs.io"""

from hera.workflows import DAG, Workflow, script


@script()
def produce():
    print(42, end="")


@script()
def consume(number: str):
    print(f"the number is {number}")


with Workflow(generate_name="hera-", entrypoint="main") as w:
    with DAG(name="main"):
        first = produce(name="produce")
        second = consume(name="consume", arguments={"number": first.result})
        first >> second

print(w.to_yaml())
