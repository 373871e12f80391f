//! The engine and `cwasi-run` on small components.

mod agent;
#[cfg(feature = "p3")]
mod concurrent;
mod conformance;
mod engine;
mod functions;
mod guests;
mod http;
mod netns;
mod run;
mod runner;
mod sandbox;
mod several;
