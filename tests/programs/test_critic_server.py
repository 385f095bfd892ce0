"""The critic server: its answers against the model's own, the routes, saved steps, and the process around it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from starlette.testclient import TestClient
from transformers import LlamaConfig, LlamaForSequenceClassification

from cai_jobs.ppo import inference_protocol as protocol
from cai_jobs.ppo.critic_model import Critic, CriticSettings
from cai_jobs.ppo.critic_server import CriticService, build_app
from cai_jobs.ppo.device import Device

VOCABULARY = 30
TOKENS = np.array([[3, 4, 5, 6, 7], [8, 9, 10, 0, 0]], np.int64)
LENGTHS = np.array([[5], [3]], np.int64)
MASK = np.array([[0, 1, 1, 1], [1, 1, 0, 0]], np.float32)


@pytest.fixture(scope="module")
def reward_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=1,
        pad_token_id=0,
        initializer_range=0.4,
    )
    path = tmp_path_factory.mktemp("reward") / "model"
    LlamaForSequenceClassification(config).save_pretrained(path)
    return path


@pytest.fixture
def make_critic(reward_model: Path, tmp_path: Path) -> Any:
    def make(**changes: Any) -> Critic:
        settings = {"checkpoint_dir": tmp_path / "critic", "learning_rate": 1e-2, "warmup_steps": 0, **changes}
        return Critic(reward_model, CriticSettings(**settings), Device(torch.device("cpu"), torch.float32))

    return make


@pytest.fixture
def client(make_critic: Any) -> Iterator[TestClient]:
    service = CriticService(make_critic)
    service.loading.result()
    with TestClient(build_app(service)) as client:
        yield client
    service.stop()


def call(
    client: TestClient,
    model: str,
    tensors: protocol.Tensors,
    parameters: dict[str, Any] | None = None,
    binary: bool = True,
) -> protocol.Message:
    body, headers = protocol.encode_request(tensors, parameters, binary=binary)
    answer = client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
    assert answer.status_code == 200, answer.text
    return protocol.decode_answer(answer.content, answer.headers.get(protocol.LENGTH_HEADER))


def infer(client: TestClient, binary: bool = True) -> protocol.Message:
    return call(client, "critic_infer", {"tokens": TOKENS, "sequence_lengths": LENGTHS}, binary=binary)


def train_tensors(returns: float = 1.0) -> protocol.Tensors:
    goal = np.full((2, 4), returns, np.float32)
    return {"tokens": TOKENS, "returns": goal, "prev_values": np.zeros((2, 4), np.float32), "mask": MASK}


def test_health_and_metadata(client: TestClient) -> None:
    for path in (
        "health/live",
        "health/ready",
        *(f"models/critic_{name}/ready" for name in ("infer", "train", "save")),
    ):
        assert client.get(f"/v2/{path}").status_code == 200, path
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    metadata = client.get("/v2/models/critic_infer").json()
    assert [entry["name"] for entry in metadata["inputs"]] == ["tokens", "sequence_lengths"]
    assert metadata["parameters"] == {"step": 0, "saved_steps": [], "vocab_size": VOCABULARY, "vocab_digest": None}
    for answer in (client.get("/v2/models/other/ready"), client.post("/v2/models/other/infer", content=b"{}")):
        assert answer.status_code == 404
        assert "critic_infer" in answer.json()["error"]


def test_it_is_live_but_not_ready_while_loading(make_critic: Any) -> None:
    gate = threading.Event()

    def load() -> Critic:
        gate.wait()
        critic: Critic = make_critic()
        return critic

    service = CriticService(load)
    with TestClient(build_app(service)) as client:
        assert client.get("/v2/health/live").status_code == 200
        for path in ("/v2/health/ready", "/v2/models/critic_infer/ready", "/v2/models/critic_infer"):
            assert client.get(path).status_code == 503, path
        assert client.post("/v2/models/critic_infer/infer", content=b"{}").status_code == 503
        gate.set()
        service.loading.result()
        assert client.get("/v2/health/ready").status_code == 200
    service.stop()


@pytest.mark.parametrize("binary", [True, False])
def test_rewards_and_values_are_the_models_own_scores(client: TestClient, reward_model: Path, binary: bool) -> None:
    answer = infer(client, binary)
    model = LlamaForSequenceClassification.from_pretrained(reward_model)
    values = np.zeros((2, 4), np.float32)
    with torch.no_grad():
        for row, length in enumerate(LENGTHS[:, 0]):
            for end in range(1, length + 1):
                score = float(model(input_ids=torch.tensor(TOKENS[row : row + 1, :end])).logits[0, 0])
                if end < 5:
                    values[row, end - 1] = score
            np.testing.assert_allclose(answer.tensors["rewards"][row], [score], atol=1e-5)
    assert answer.tensors["values"].dtype == answer.tensors["rewards"].dtype == np.float32
    np.testing.assert_allclose(answer.tensors["values"], values, atol=1e-5)
    assert np.ptp(values) > 0.1
    assert answer.parameters["step"] == 0


def test_padding_and_batching_do_not_matter(make_critic: Any) -> None:
    critic = make_critic(inference_micro_batch_size=1)
    other = make_critic(inference_micro_batch_size=4)
    padded = TOKENS.copy()
    padded[1, 3:] = 10**9
    for ours, theirs in zip(critic.infer(TOKENS, LENGTHS[:, 0]), other.infer(padded, LENGTHS[:, 0]), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_training_gives_the_loss_of_the_values_before_and_moves_only_them(client: TestClient) -> None:
    before = infer(client).tensors
    tensors = {**train_tensors(), "prev_values": before["values"]}
    losses = [
        float(call(client, "critic_train", tensors, {"step": step}).tensors["loss_mean"][0, 0]) for step in (1, 2, 3)
    ]
    expected = 0.5 * ((before["values"] - 1.0) ** 2 * MASK).sum() / MASK.sum()
    assert losses[0] == pytest.approx(float(expected), rel=1e-4)
    assert losses[2] < losses[0]
    after = infer(client)
    assert after.parameters["step"] == 3
    np.testing.assert_array_equal(after.tensors["rewards"], before["rewards"])
    assert np.abs(after.tensors["values"] - before["values"]).max() > 1e-3


def test_micro_batches_do_not_change_the_gradient(make_critic: Any) -> None:
    arrays = (TOKENS, np.ones((2, 4), np.float32), np.zeros((2, 4), np.float32), MASK.astype(bool))
    critics = [make_critic(micro_batch_size=size) for size in (1, 2)]
    losses = [critic.train(*arrays, step=1) for critic in critics]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for ours, theirs in zip(critics[0].value.parameters(), critics[1].value.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-5, rtol=1e-4)


def test_a_training_step_is_done_once_and_in_order(client: TestClient) -> None:
    first = call(client, "critic_train", train_tensors(), {"step": 1}).tensors["loss_mean"]
    values = infer(client).tensors["values"]
    again = call(client, "critic_train", train_tensors(), {"step": 1}).tensors["loss_mean"]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(infer(client).tensors["values"], values)
    body, headers = protocol.encode_request(train_tensors(), {"step": 3})
    answer = client.post("/v2/models/critic_train/infer", content=body, headers=headers)
    assert answer.status_code == 409
    assert "stands at step 1" in answer.json()["error"]


def test_a_client_that_numbers_nothing_is_counted_for(client: TestClient) -> None:
    for _ in range(2):
        call(client, "critic_train", train_tensors())
    assert infer(client).parameters["step"] == 2


def test_saved_steps_are_gone_back_to_exactly(client: TestClient, make_critic: Any) -> None:
    values = {0: infer(client).tensors["values"]}
    for step in (1, 2, 3):
        call(client, "critic_train", train_tensors(), {"step": step})
        values[step] = infer(client).tensors["values"]
        saved = call(client, "critic_save", {"step": np.array([[step]])}, {"expected_step": step})
    assert saved.parameters["saved_steps"] == [2, 3]
    back = call(client, "critic_save", {}, {"load_step": 2})
    assert (back.parameters["step"], back.parameters["saved_steps"]) == (2, [2])
    np.testing.assert_array_equal(infer(client).tensors["values"], values[2])
    # the optimiser came back too: the same call leads to the same values
    call(client, "critic_train", train_tensors(), {"step": 3})
    np.testing.assert_array_equal(infer(client).tensors["values"], values[3])
    restarted = make_critic()
    restarted.restore(2)
    np.testing.assert_array_equal(restarted.infer(TOKENS, LENGTHS[:, 0])[0], values[2])
    assert call(client, "critic_save", {}, {"load_step": 0}).parameters["saved_steps"] == []
    np.testing.assert_array_equal(infer(client).tensors["values"], values[0])


def test_saving_another_step_than_expected_is_refused(client: TestClient) -> None:
    body, headers = protocol.encode_request({"step": np.array([[5]])}, {"expected_step": 5})
    answer = client.post("/v2/models/critic_save/infer", content=body, headers=headers)
    assert answer.status_code == 409
    assert client.get("/v2/models/critic_save").json()["parameters"]["saved_steps"] == []


def test_a_stopped_training_call_leaves_the_last_saved_step(make_critic: Any) -> None:
    critic = make_critic()
    arrays = (TOKENS, np.ones((2, 4), np.float32), np.zeros((2, 4), np.float32), MASK.astype(bool))
    critic.train(*arrays, step=1)
    critic.save(1)
    critic.stop.set()
    with pytest.raises(Exception, match="stopping"):
        critic.train(*arrays, step=2)
    assert (critic.step, critic.updates) == (1, 1)


@pytest.mark.parametrize(
    ("model", "tensors", "parameters", "sentence"),
    [
        ("critic_infer", {"tokens": TOKENS}, {}, "sequence_lengths is missing"),
        ("critic_infer", {"tokens": TOKENS, "sequence_lengths": LENGTHS + 1}, {}, "between 1 and 5"),
        ("critic_infer", {"tokens": TOKENS + 25, "sequence_lengths": LENGTHS}, {}, "the model knows 0 to 29"),
        ("critic_infer", {"tokens": TOKENS[0], "sequence_lengths": LENGTHS}, {}, "2 dimensions"),
        ("critic_train", {**train_tensors(), "mask": MASK[:, :3]}, {}, "mask has shape"),
        ("critic_train", train_tensors(), {"step": "one"}, "parameter step"),
        ("critic_save", {}, {}, "input step is missing"),
        ("critic_save", {}, {"load_step": 7}, "no checkpoint of step 7"),
    ],
)
def test_wrong_requests_are_refused_with_a_sentence(
    client: TestClient, model: str, tensors: protocol.Tensors, parameters: dict[str, Any], sentence: str
) -> None:
    body, headers = protocol.encode_request(tensors, parameters)
    answer = client.post(f"/v2/models/{model}/infer", content=body, headers=headers)
    assert answer.status_code == 400
    assert sentence in answer.json()["error"]
    assert infer(client).parameters["step"] == 0


def serve_critic(*flags: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "cai_jobs.serve_critic", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_the_process_ends_cleanly_on_a_signal(reward_model: Path, tmp_path: Path, signal_number: int) -> None:
    process = serve_critic("--reward-model", str(reward_model), "--port", "0", "--checkpoint-dir", str(tmp_path / "c"))
    assert process.stdout is not None
    assert '"ready"' in process.stdout.readline()
    process.send_signal(signal_number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors


def test_a_taken_port_and_a_missing_model_are_said(reward_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        first = serve_critic("--reward-model", str(reward_model), "--port", port, "--checkpoint-dir", str(tmp_path))
        _, errors = first.communicate(timeout=60)
    assert first.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in errors
    second = serve_critic("--reward-model", str(tmp_path), "--port", "0", "--checkpoint-dir", str(tmp_path))
    _, errors = second.communicate(timeout=60)
    assert second.returncode == 2
    assert "no config.json" in errors


def test_a_model_with_two_labels_ends_the_server_with_a_sentence(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, num_labels=2
    )
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    process = serve_critic(
        "--reward-model", str(tmp_path / "model"), "--port", "0", "--checkpoint-dir", str(tmp_path / "c")
    )
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "it has 2 labels" in errors
