"""Run by ``checkWheel`` with an installed wheel: trains a small model and updates an engine worker with it."""

import json
import shutil
import subprocess
import sys
from http.client import HTTPConnection
from socket import AF_UNIX, socket

import ckpt
import torch
from ckpt import ParameterServer, control_engine
from ckpt_worker import digest

assert ckpt.__file__.startswith(sys.argv[1]), ckpt.__file__
assert shutil.which("node") is None
engine = subprocess.Popen([sys.executable, "-m", "ckpt_reference", "--control", "engine.sock"])
model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 8))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
with ParameterServer() as ps:
    for step in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
        ps.register_checkpoint(f"step-{step}", named_tensors=model.state_dict())
        report = ps.update(f"step-{step}", engine=control_engine("engine.sock"))
        ps.unregister_checkpoint(f"step-{step}")

connection = HTTPConnection("localhost")
connection.sock = socket(AF_UNIX)
connection.sock.connect("engine.sock")
connection.request("GET", "/digests")
found = json.loads(connection.getresponse().read())["digests"]
wanted = {name: f"{digest(tensor):016x}" for name, tensor in model.state_dict().items()}
engine.terminate()
engine.wait(30)
assert found == wanted, (found, wanted)
print(f"version {report.version} of {report.tensors} tensors, verified: {report.verified}, {report.how}")
