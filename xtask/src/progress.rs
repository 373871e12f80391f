//! Progress of long steps: a spinner on a terminal, plain lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};
use std::io::IsTerminal;
use std::time::Duration;

/// A running step; its end is shown when it is dropped.
pub struct Step {
    bar: Option<ProgressBar>,
    message: String,
}

/// Shows that a step began.
#[must_use]
pub fn step(message: impl Into<String>) -> Step {
    let message = message.into();
    if !std::io::stderr().is_terminal() {
        eprintln!("{message} …");
        return Step { bar: None, message };
    }
    let bar = ProgressBar::new_spinner().with_style(
        ProgressStyle::with_template("{spinner} {msg} ({elapsed})").expect("a constant template is valid"),
    );
    bar.set_message(message.clone());
    bar.enable_steady_tick(Duration::from_millis(120));
    Step {
        bar: Some(bar),
        message,
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            let seconds = bar.elapsed().as_secs();
            bar.finish_and_clear();
            eprintln!("{} ({seconds} s)", self.message);
        }
    }
}
