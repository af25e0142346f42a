"""Train a small network on scikit-learn's handwritten digits."""

import torch
from sklearn.datasets import load_digits
from torch.nn.functional import cross_entropy

import psrv

torch.manual_seed(0)
digits = load_digits()
images = torch.tensor(digits.data / 16.0, dtype=torch.float32)
labels = torch.tensor(digits.target)
model = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
session = psrv.connect()
optimizer = psrv.DistributedOptimizer(model, session, method="cd-adam", lr=2e-3)
scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=300)
rows = torch.arange(session.rank, 1500, session.workers)

for _ in range(300):
    batch = rows[torch.randint(len(rows), (32,))]
    loss = cross_entropy(model(images[batch]), labels[batch])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    scheduler.step()

accuracy = (model(images[1500:]).argmax(1) == labels[1500:]).float().mean()
print(f"test accuracy {accuracy:.1%}")
