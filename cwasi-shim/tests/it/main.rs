//! The engine and `cwasi-run` on small components.

mod agent;
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
