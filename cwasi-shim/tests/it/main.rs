//! The engine and `cwasi-run` on small components.

mod agent;
mod engine;
mod guests;
mod run;
mod runner;
