//! What lies in the state directory, whatever it is: the agent begins, and says what it cannot use.
#![no_main]

use std::fs;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let dir = tempfile::tempdir().expect("a directory");
    let functions = dir.path().join("functions");
    fs::create_dir(&functions).expect("a directory");
    // The parts of the input: the agent's own file, that of processes, and functions by number.
    for (number, part) in input.split(|byte| *byte == 0).take(6).enumerate() {
        let file = match number {
            0 => dir.path().join("agent.json"),
            1 => dir.path().join("processes.json"),
            number => functions.join(format!("{}.json", number - 1)),
        };
        fs::write(file, part).expect("a file");
    }
    let node = cwasi_fuzz::node();
    let agent = cwasi_fuzz::agent(&node, dir.path());
    cwasi_fuzz::check(&agent, &node);
});
