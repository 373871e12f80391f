//! The data plane's races, explored exhaustively: every interleaving of small cases, step by step as the kernel's locks allow.

mod direction;
mod pairing;
