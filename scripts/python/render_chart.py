"""Renders deploy/helm/ckpt with Helm's own engine, and validates what comes out against Kubernetes' schemas.

Prints JSON: the text of each workload's manifests, and the problems found. With ``--write`` it also writes the manifests
to deploy/manifests. Arguments after it are values, each a JSON object, which are rendered as further variants.
"""

import json
import sys
from pathlib import Path
from typing import Any

import helm_python as helm
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
CHART = str(DEPLOY / "helm/ckpt")
WORKLOADS = ("statefulset", "leaderworkerset", "jobset")
#: Oldest and newest release that manifests are validated for.
RELEASES = ("1.27", "1.37")
HEAD = "# Rendered from deploy/helm/ckpt with its default values; do not edit (CONTRIBUTING.md).\n"


def render(values: dict[str, Any]) -> str:
    with helm.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        files: dict[str, str] = chart.render(values, name="ckpt", namespace="default")
    texts = [text.strip("\n") for path, text in sorted(files.items()) if path.endswith(".yaml")]
    lines = "\n---\n".join(text for text in texts if text.strip()).splitlines()
    return "".join(f"{line.rstrip()}\n" for line in lines if line.strip())


def known_objects(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the parts that Kubernetes itself defines of what may be an object of somebody else's."""
    name = document["metadata"]
    if document["kind"] == "LeaderWorkerSet":
        group = document["spec"]["leaderWorkerTemplate"]
        templates = [group[key] for key in ("leaderTemplate", "workerTemplate") if key in group]
        return [{"apiVersion": "v1", "kind": "PodTemplate", "metadata": name, "template": one} for one in templates]
    if document["kind"] == "JobSet":
        jobs = [one["template"] for one in document["spec"]["replicatedJobs"]]
        return [{"apiVersion": "batch/v1", "kind": "Job", "metadata": name, "spec": one["spec"]} for one in jobs]
    return [document]


def problems_of(text: str) -> list[str]:
    found = []
    for document in yaml.safe_load_all(text):
        for one in known_objects(document):
            for release in RELEASES:
                try:
                    kubernetes_validate.validate(one, release, strict=True)
                except kubernetes_validate.ValidationError as error:
                    where = ".".join(str(part) for part in error.path)
                    found.append(f"{document['kind']} for {release}: {where}: {error.message}")
    return found


def main(arguments: list[str]) -> None:
    rendered = {workload: render({"workload": workload}) for workload in WORKLOADS}
    variants = [render(json.loads(argument)) for argument in arguments if argument != "--write"]
    if "--write" in arguments:
        for workload, text in rendered.items():
            (DEPLOY / f"manifests/{workload}.yaml").write_text(HEAD + text)
    lint = helm.lint(CHART)
    problems = [str(error) for error in lint["errors"]]
    for text in (*rendered.values(), *variants):
        problems += problems_of(text)
    manifests = {workload: HEAD + text for workload, text in rendered.items()}
    print(json.dumps({"manifests": manifests, "variants": variants, "problems": problems}))


if __name__ == "__main__":
    main(sys.argv[1:])
