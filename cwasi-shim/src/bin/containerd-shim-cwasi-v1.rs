//! `containerd-shim-cwasi-v1`; see [`cwasi_shim::containerd`].

fn main() -> std::process::ExitCode {
    cwasi_shim::containerd::main()
}
