"""Lints the Helm chart, renders the manifests of deploy/kubernetes/ROLE from it and their values.yaml, and checks them
against the schemas of Kubernetes; compose file, GitHub Action and GitLab template against theirs.

``make manifests`` writes what is rendered; with ``--check`` it must be there already.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import helm_python
import kubernetes_validate
import yaml

DEPLOY = Path(__file__).parent
CHART = DEPLOY / "helm/ztnode"
ROLES = ("sidecar", "gateway", "controller", "root")
VERSIONS = ("1.37", "1.36")
HEAD = "# Made from deploy/helm/ztnode and the values.yaml beside this file: make manifests\n"
OTHERS = {
    "compose-spec": [DEPLOY / "compose/compose.yaml"],
    "github-actions": [DEPLOY / "github-action/action.yml"],
    "gitlab-ci": [DEPLOY / "gitlab/ztnode.gitlab-ci.yml"],
}


def linted(values: dict[str, Any]) -> list[str]:
    """What helm lint finds, warnings too."""
    report = helm_python.lint(CHART, values, strict=True)
    found = [f"{each['path']}: {each['error']}" for each in report["messages"] if each["severity"] > 1]
    return found + [str(each) for each in report["errors"]]


def rendered(role: str, values: dict[str, Any]) -> str:
    """What the chart makes of these values, as ``helm template`` has it."""
    with helm_python.Chart.load(CHART) as chart:
        files = chart.render(values, name=f"ztnode-{role}", namespace="default")
    documents = (text.strip() for path, text in sorted(files.items()) if path.endswith(".yaml"))
    return "".join(f"---\n{text}\n" for text in documents if text)


def refused(text: str) -> list[str]:
    """What the schemas of Kubernetes do not take, and what a pod must not be."""
    wrong = []
    for document in yaml.safe_load_all(text):
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except (kubernetes_validate.ValidationError, kubernetes_validate.InvalidSchemaError) as error:
                wrong.append(f"{document['kind']} with Kubernetes {version}: {error}")
        pod = document.get("spec", {}).get("template", {}).get("spec")
        for container in [] if pod is None else [*pod.get("initContainers", []), *pod["containers"]]:
            context = container.get("securityContext", {})
            needed = {"runAsNonRoot": True, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False}
            if any(context.get(key) is not value for key, value in needed.items()):
                wrong.append(f"container {container['name']} may do more than it needs")
            if context.get("capabilities") != {"drop": ["ALL"]}:
                wrong.append(f"container {container['name']} has capabilities")
    return wrong


def main() -> int:
    """1 with a line for each thing that is wrong."""
    wrong: list[str] = []
    for role in ROLES:
        folder = DEPLOY / "kubernetes" / role
        values = yaml.safe_load((folder / "values.yaml").read_text())
        wrong += [f"{role}: helm lint: {finding}" for finding in linted(values)]
        text = HEAD + rendered(role, values)
        wrong += [f"{role}: {reason}" for reason in refused(text)]
        target = folder / "ztnode.yaml"
        if "--check" in sys.argv:
            if not target.exists() or target.read_text() != text:
                wrong.append(f"{target}: not as the chart has it; run: make manifests")
        else:
            target.write_text(text)
        listed = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
        wrong += [f"{folder}/kustomization.yaml: no {name}" for name in listed if not (folder / name).exists()]
    for schema, files in OTHERS.items():
        command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", *map(str, files)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            wrong.append(done.stdout + done.stderr)
    print(*wrong or ["manifests, chart and templates are as their schemas have them"], sep="\n")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
