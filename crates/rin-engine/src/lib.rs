//! Weights to plan to arena to logits to text.
