//! `cwasi-native-c`: the native peer in C. Its main function is that of native-c/peer.c, which the build script compiles.

#![no_main]
