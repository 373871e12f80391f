//! Compiles the native peer in C, which is nothing but the main function of `cwasi-native-c`.

fn main() {
    let source = "native-c/peer.c";
    println!("cargo::rerun-if-changed={source}");
    // Optimised in every profile: it is the floor that others are measured against.
    let objects = cc::Build::new()
        .file(source)
        .opt_level(2)
        .extra_warnings(true)
        .compile_intermediates();
    for object in objects {
        println!("cargo::rustc-link-arg-bin=cwasi-native-c={}", object.display());
    }
}
