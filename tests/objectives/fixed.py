"""An objective on the toy, its value and gradients, and the same of a definition in float64."""

import torch

from neuclip.objectives.registry import build


def make(toy, config, num_samples=1000):
    width = toy.image_encoder.shape[1]
    objective = build(config, feature_dim=width, num_samples=num_samples)
    return objective.to(toy.raw_images.dtype)


def value_and_gradients(toy, objective, ids=None):
    """The result, and the loss's gradient to both encoders and, if it is learned, to t."""
    result = objective(*toy.features(), toy.ids if ids is None else ids)
    learned = [p for group in objective.trainable() for p in group.parameters]
    return result, torch.autograd.grad(result.loss, [*toy.encoders, *learned])


def oracle(toy, objective, loss_of_tau):
    """Loss and gradients to both encoders and t of a function of images, texts and tau."""
    exact = toy.double()
    t = objective.learned_temperature.log_scale.detach().double().requires_grad_()
    loss = loss_of_tau(*exact.features(), torch.exp(-t))
    wanted = [*exact.encoders]
    if objective.learned_temperature.log_scale.requires_grad:
        wanted.append(t)
    return loss, torch.autograd.grad(loss, wanted)
