"""Losses of captioning. All are float32 and take a mask of the words that count, 1 or 0.

Xu et al., "Show, Attend and Tell: Neural Image Caption Generation with Visual Attention", ICML 2015.
"""

from __future__ import annotations

from keras import ops


def word_cross_entropy(logits, targets, mask):
    """-log p of each target word, in nats.

    Args:
        logits: (..., V).
        targets: (...) int.
        mask: (...) 1 where there is a word.

    Returns:
        (...) float32, 0 where the mask is 0.
    """
    targets = ops.cast(targets, "int32")
    return ops.sparse_categorical_crossentropy(targets, ops.cast(logits, "float32"), from_logits=True) * mask


def doubly_stochastic(attention, mask):
    """How far the attention that each place gets over a whole sentence is from 1: mean over places of its square.

    Args:
        attention: (..., T, L) weights of each word.
        mask: (..., T).

    Returns:
        (...) float32.

    Differs from the paper: the mean over places, as its code has it, instead of the sum. A `Captioner` takes the mean
    over captions of this, too, and adds it to the cross entropy of whole captions. So a weight of L (196 for 14x14
    places) is the paper's formula with lambda = 1; a weight of as many as a batch has captions (64) its code with
    alpha_c = 1, which sums over the batch; and a weight of the words of a caption, its end included (about 11), the
    PyTorch tutorial with alpha_c = 1, whose cross entropy is a mean over words.
    """
    total = ops.sum(attention * mask[..., None], axis=-2)
    return ops.mean(ops.square(1 - total), axis=-1)


def reinforce_attention(cost, baseline, attention, used, mask, *, reward_weight: float = 1.0, entropy_weight=0.0):
    """A scalar a sentence whose gradient is the REINFORCE estimate for hard attention (section 4.1 of the paper).

    With s the places drawn: reward_weight (cost - baseline) d log p(s) - entropy_weight dH(p). Add it to the cost
    itself, and the mean over draws is the gradient of the negative variational bound, if both weights and the
    baseline are 1, 0 and anything.

    Args:
        cost: (...) negative log likelihood of a sentence given the places; no gradient flows into it from here.
        baseline: scalar or (...), taken off the cost to lower the variance.
        attention: (..., T, L) probabilities of the places.
        used: (..., T, L) one-hot rows, the places drawn.
        mask: (..., T).

    Returns:
        (...) float32. Its value means nothing; its gradient does.
    """
    advantage = ops.stop_gradient(cost - baseline)
    logs = ops.log(ops.maximum(attention, 1e-20))
    chosen = ops.sum(ops.sum(ops.stop_gradient(used) * logs, axis=-1) * mask, axis=-1)
    entropy = -ops.sum(ops.sum(attention * logs, axis=-1) * mask, axis=-1)
    return reward_weight * advantage * chosen - entropy_weight * entropy


__all__ = ["doubly_stochastic", "reinforce_attention", "word_cross_entropy"]
