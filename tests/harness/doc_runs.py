"""Where the commands of our pages are run, and which cannot be.

Whatever is not named here is run by tests/api/test_doc_commands.py against a real API server, with the operator at work
and pods played. A command that cannot be run there belongs in one of the two lists.
"""

from __future__ import annotations

from collections.abc import Mapping

QUESTION = '"How can I get into my neighbour\'s garden?"'

ON_NODE: Mapping[str, str] = {
    "kubectl port-forward service/pocket-serve 1427 &": "a pod that serves",
    f"cai ask {QUESTION} --url http://localhost:1427": "a pod that serves",
    "curl -s -X PUT http://localhost:1427/generate": "a pod that serves",
    "kubectl exec deployment/pocket-serve": "a pod that serves",
    "kubectl logs -l cai.dev/pipeline=pocket,cai.dev/stage=sft": "a pod that has run",
    "kubectl logs -n NAMESPACE -l cai.dev/pipeline=NAME,cai.dev/node=STAGE": "a pod that has run",
    "kubectl exec -n NAMESPACE deployment/NAME-serve": "a pod that serves",
    "kubectl -n cai-system port-forward deployment/cai-operator 9090 &": "the operator's pod",
    "curl -s localhost:9090/metrics": "the operator's pod",
    "kubectl -n cai-system logs deployment/cai-operator --tail=50": "the operator's pod",
    "kubectl -n cai-system logs deployment/cai-operator --since=15m": "the operator's pod",
}
"""How a command begins that tests/cluster/test_pipeline.py runs on the node -> what it needs."""

_PUSH = "there is no registry to push to"
_TROUBLE = "its log has such lines only in trouble"
_ARGO = "needs Argo CD's own resources; tests/api and tests/unit read the files"
_HUB = "takes a model from the Hugging Face hub"
PARSED: Mapping[str, str] = {
    "make run": "five minutes; tests/pipeline runs `cai run` to the end",
    "make images": "tests/cluster has the same images built",
    "docker tag cai-operator:dev": _PUSH,
    "docker tag cai-jobs:dev-cpu": _PUSH,
    "helm package": _PUSH + "; tests/chart packages the same chart",
    "helm test": "pods have to run: tests/cluster/test_uninstall.py runs it on the node",
    "kubectl apply -k overlay/": "tests/chart/test_kustomize.py builds the overlay that the page shows",
    ".venv/bin/cai run examples/one-gpu.yaml": _HUB,
    ".venv/bin/cai status runs/one-gpu": "needs the run of the line before",
    '.venv/bin/cai ask "How can I get into my neighbour\'s Wifi?"': "needs the run two lines before",
    "python -m cai_jobs.generate_sl_cai_dataset": "needs a model server; tests/programs runs the generator",
    "kubectl -n cai-system logs deployment/cai-operator --since=30m | grep": _TROUBLE,
    "kubectl -n cai-system top pod": "needs metrics-server",
    "kubectl apply --server-side --field-manager=cai-operator-settings -f examples/argocd/argocd-cm.yaml": _ARGO,
    "kubectl apply -f examples/argocd/root.yaml": _ARGO,
    "grep -rl git.example examples/argocd": "needs a repository of the reader's",
    "kubectl create secret generic ngc -n alignment": "needs kubeseal and its controller",
    "python examples/nlp/gpt/train_reward_model.py": "NeMo-Aligner's own, which the page starts from",
}
"""How a command begins that no test runs -> why; its syntax, files and flags are checked all the same."""


def reason(text: str, why: Mapping[str, str]) -> str | None:
    """What a list says about a command, None where it is not in it."""
    return next((said for begin, said in why.items() if text.startswith(begin)), None)
