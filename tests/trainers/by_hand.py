"""The steps again, row by row and without padding, from nothing but a model's own logits and torch's AdamW."""

import torch


def completion_logps(model, prompt_ids, completion_ids, temperature=1.0):
    """log π of the completion's tokens, (T,), from all logits of the row on its own."""
    ids = torch.tensor([[*prompt_ids, *completion_ids]])
    table = torch.log_softmax(model(input_ids=ids).logits[0] / temperature, dim=-1)
    start = len(prompt_ids)
    return torch.stack([table[t - 1, ids[0, t]] for t in range(start, ids.shape[1]) if t > 0])


def scalars(scalar_model, ids):
    """The scalar head's number at every position, (L,)."""
    hidden = scalar_model.model.base_model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    return hidden @ scalar_model.model.score.weight[0]


def train(loss_of_step, steps, lrs, *models, max_grad_norm=1.0):
    """`steps` updates with AdamW of the loss `loss_of_step(step)`, at one constant rate for each model."""
    optimizer = torch.optim.AdamW(
        [{"params": list(model.parameters()), "lr": lr} for model, lr in zip(models, lrs)], weight_decay=0.0
    )
    for step in range(steps):
        optimizer.zero_grad()
        loss_of_step(step).backward()
        torch.nn.utils.clip_grad_norm_([p for model in models for p in model.parameters()], max_grad_norm)
        optimizer.step()
