//! Guests of the tests: core modules in text form, made into components with the world of `guest.wit`.

use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// Memory, and an allocator that hands it out from 64 KiB on and never frees.
const LIBRARY: &str = r#"
    (memory (export "memory") 16)
    (global $free (mut i32) (i32.const 65536))
    (func $realloc (export "cabi_realloc") (param i32 i32 i32 i32) (result i32)
        (local $at i32)
        (local.set $at (i32.and (i32.add (global.get $free) (i32.const 15)) (i32.const -16)))
        (global.set $free (i32.add (local.get $at) (local.get 3)))
        (local.get $at))
"#;

/// `$leave code` ends the guest.
const EXIT: &str = r#"
    (import "wasi:cli/exit@0.2.12" "exit-with-code" (func $leave (param i32)))
"#;

/// What `$say` needs.
const STDOUT: &str = r#"
    (import "wasi:cli/stdout@0.2.12" "get-stdout" (func $stdout (result i32)))
    (import "wasi:io/streams@0.2.12" "[method]output-stream.blocking-write-and-flush"
        (func $write (param i32 i32 i32 i32)))
    (import "wasi:io/streams@0.2.12" "[resource-drop]output-stream" (func $drop_output (param i32)))
"#;

/// `$say ptr len` writes to standard output.
const SAY: &str = r#"
    (func $say (param $at i32) (param $len i32)
        (local $stream i32)
        (local.set $stream (call $stdout))
        (call $write (local.get $stream) (local.get $at) (local.get $len) (i32.const 32))
        (call $drop_output (local.get $stream)))
"#;

/// A component of `world` (see `guest.wit`) whose core module has these imports and items.
pub(crate) fn component(world: &str, imports: &str, items: &str) -> Vec<u8> {
    let text = format!("(module {imports} {LIBRARY} {items})");
    let mut module = wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
    let mut resolve = Resolve::default();
    let package = resolve.push_str("guest.wit", include_str!("guest.wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    ComponentEncoder::default()
        .module(&module)
        .unwrap()
        .validate(true)
        .encode()
        .unwrap()
}

fn command(imports: &str, items: &str, run: &str) -> Vec<u8> {
    let run = format!(r#"(func (export "wasi:cli/run@0.2.12#run") (result i32) {run})"#);
    component("guest", imports, &format!("{items} {run}"))
}

/// Returns from `run` with success or not.
pub(crate) fn returns(success: bool) -> Vec<u8> {
    command("", "", if success { "(i32.const 0)" } else { "(i32.const 1)" })
}

/// Ends itself with `code`.
pub(crate) fn exits(code: u8) -> Vec<u8> {
    command(
        EXIT,
        "",
        &format!("(call $leave (i32.const {code})) (i32.const 0)"),
    )
}

/// Traps in a function named `boom`.
pub(crate) fn traps() -> Vec<u8> {
    command("", "(func $boom unreachable)", "(call $boom) (i32.const 0)")
}

/// Calls itself until the stack is used up.
pub(crate) fn recurses() -> Vec<u8> {
    command(
        "",
        "(func $down (call $down) (call $down))",
        "(call $down) (i32.const 0)",
    )
}

/// Grows its memory by 1 MiB until it is refused (at most 64 times), then traps, or else ends with code 9.
pub(crate) fn grows(then_traps: bool) -> Vec<u8> {
    let end = if then_traps {
        "unreachable"
    } else {
        "(call $leave (i32.const 9))"
    };
    let run = format!(
        "(local $left i32) (local.set $left (i32.const 64))
         (block $refused
            (loop $again
                (br_if $refused (i32.eq (memory.grow (i32.const 16)) (i32.const -1)))
                (local.set $left (i32.sub (local.get $left) (i32.const 1)))
                (br_if $again (local.get $left)))
            (call $leave (i32.const 0)))
         {end} (i32.const 0)"
    );
    command(EXIT, "", &run)
}

/// Prints its arguments, then its variables, each in brackets.
pub(crate) fn tells_what_it_is_given() -> Vec<u8> {
    let imports = format!(
        r#"{STDOUT}
        (import "wasi:cli/environment@0.2.12" "get-arguments" (func $arguments (param i32)))
        (import "wasi:cli/environment@0.2.12" "get-environment" (func $variables (param i32)))"#
    );
    let items = format!(
        r#"{SAY}
        (data (i32.const 100) "[]")
        ;; Prints the strings of a list, of which each is 8 bytes.
        (func $strings (param $at i32) (param $count i32)
            (block $done
                (loop $next
                    (br_if $done (i32.eqz (local.get $count)))
                    (call $say (i32.const 100) (i32.const 1))
                    (call $say (i32.load (local.get $at)) (i32.load offset=4 (local.get $at)))
                    (call $say (i32.const 101) (i32.const 1))
                    (local.set $at (i32.add (local.get $at) (i32.const 8)))
                    (local.set $count (i32.sub (local.get $count) (i32.const 1)))
                    (br $next))))"#
    );
    // A list of pairs of strings lies in memory as a list of twice as many strings.
    let run = "(call $arguments (i32.const 0))
        (call $strings (i32.load (i32.const 0)) (i32.load (i32.const 4)))
        (call $variables (i32.const 0))
        (call $strings (i32.load (i32.const 0)) (i32.mul (i32.const 2) (i32.load (i32.const 4))))
        (i32.const 0)";
    command(&imports, &items, run)
}

/// Ends with the length of its working directory's name, 0 if it has none, and 16 for each variable that it has.
pub(crate) fn measures_what_it_is_given() -> Vec<u8> {
    let imports = format!(
        r#"{EXIT}
        (import "wasi:cli/environment@0.2.12" "initial-cwd" (func $cwd (param i32)))
        (import "wasi:cli/environment@0.2.12" "get-environment" (func $variables (param i32)))"#
    );
    let run = "(call $cwd (i32.const 0))
        (call $variables (i32.const 16))
        (call $leave (i32.add
            (i32.mul (i32.load8_u (i32.const 0)) (i32.load (i32.const 8)))
            (i32.mul (i32.const 16) (i32.load (i32.const 20)))))
        (i32.const 0)";
    command(&imports, "", run)
}

/// Opens `path` below its first directory, to read or to create it, and ends with 0, or 100 and the error code.
/// Prints the name of that directory.
pub(crate) fn opens(path: &str, create: bool) -> Vec<u8> {
    let imports = format!(
        r#"{EXIT} {STDOUT}
        (import "wasi:filesystem/preopens@0.2.12" "get-directories" (func $directories (param i32)))
        (import "wasi:filesystem/types@0.2.12" "[method]descriptor.open-at"
            (func $open (param i32 i32 i32 i32 i32 i32 i32)))"#
    );
    let (open_flags, flags) = if create { (1, 2) } else { (0, 1) };
    let run = format!(
        "(local $dirs i32)
        (call $directories (i32.const 0))
        (local.set $dirs (i32.load (i32.const 0)))
        (call $say (i32.load offset=4 (local.get $dirs)) (i32.load offset=8 (local.get $dirs)))
        (call $open (i32.load (local.get $dirs)) (i32.const 0) (i32.const 100) (i32.const {})
            (i32.const {open_flags}) (i32.const {flags}) (i32.const 8))
        (if (i32.load8_u (i32.const 8))
            (then (call $leave (i32.add (i32.const 100) (i32.load8_u (i32.const 12))))))
        (i32.const 0)",
        path.len()
    );
    command(&imports, &format!("{SAY} (data (i32.const 100) {path:?})"), &run)
}

/// Connects to a port of 127.0.0.1 `times` times and ends with 0, or 100 and the error code of the last attempt.
pub(crate) fn connects(port: u16, times: u32) -> Vec<u8> {
    let imports = format!(
        r#"{EXIT}
        (import "wasi:sockets/instance-network@0.2.12" "instance-network" (func $network (result i32)))
        (import "wasi:sockets/tcp-create-socket@0.2.12" "create-tcp-socket" (func $create (param i32 i32)))
        (import "wasi:sockets/tcp@0.2.12" "[method]tcp-socket.start-connect"
            (func $start (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32)))
        (import "wasi:sockets/tcp@0.2.12" "[method]tcp-socket.finish-connect" (func $finish (param i32 i32)))
        (import "wasi:sockets/tcp@0.2.12" "[method]tcp-socket.subscribe" (func $subscribe (param i32) (result i32)))
        (import "wasi:io/poll@0.2.12" "[method]pollable.block" (func $block (param i32)))"#
    );
    let items = format!(
        "(func $fail (param $code i32) (call $leave (i32.add (i32.const 100) (local.get $code))))
        ;; The error code of one attempt, or -1.
        (func $connect (result i32)
            (local $socket i32)
            (call $create (i32.const 0) (i32.const 0))
            (if (i32.load8_u (i32.const 0)) (then (call $fail (i32.load8_u (i32.const 4)))))
            (local.set $socket (i32.load (i32.const 4)))
            (call $start (local.get $socket) (call $network) (i32.const 0)
                (i32.const {port}) (i32.const 127) (i32.const 0) (i32.const 0) (i32.const 1)
                (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                (i32.const 8))
            (if (i32.load8_u (i32.const 8)) (then (return (i32.load8_u (i32.const 9)))))
            (call $block (call $subscribe (local.get $socket)))
            (call $finish (local.get $socket) (i32.const 16))
            (if (i32.load8_u (i32.const 16)) (then (return (i32.load8_u (i32.const 20)))))
            (i32.const -1))"
    );
    let run = format!(
        "(local $left i32) (local $code i32)
        (local.set $left (i32.const {times}))
        (loop $again
            (local.set $code (call $connect))
            (local.set $left (i32.sub (local.get $left) (i32.const 1)))
            (br_if $again (local.get $left)))
        (if (i32.ne (local.get $code) (i32.const -1)) (then (call $fail (local.get $code))))
        (i32.const 0)"
    );
    command(&imports, &items, &run)
}

/// Prints a line, then computes for ever.
pub(crate) fn spins() -> Vec<u8> {
    let items = format!(r#"{SAY} (data (i32.const 100) "started\n")"#);
    command(
        STDOUT,
        &items,
        "(call $say (i32.const 100) (i32.const 8)) (loop $again (br $again)) (i32.const 0)",
    )
}

/// Prints a line, waits for input or its end, and ends with 0.
pub(crate) fn waits() -> Vec<u8> {
    let imports = format!(
        r#"{STDOUT}
        (import "wasi:cli/stdin@0.2.12" "get-stdin" (func $stdin (result i32)))
        (import "wasi:io/streams@0.2.12" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))"#
    );
    let items = format!(r#"{SAY} (data (i32.const 100) "started\n")"#);
    let run = "(call $say (i32.const 100) (i32.const 8))
        (call $read (call $stdin) (i64.const 1) (i32.const 48)) (i32.const 0)";
    command(&imports, &items, run)
}

/// Writes `blocks` times 4096 bytes, of which the first four count the blocks, and ends with `code`.
pub(crate) fn writes(blocks: u32, code: u8) -> Vec<u8> {
    let run = format!(
        "(local $block i32)
        (loop $again
            (i32.store (i32.const 4096) (local.get $block))
            (call $say (i32.const 4096) (i32.const 4096))
            (local.set $block (i32.add (local.get $block) (i32.const 1)))
            (br_if $again (i32.lt_u (local.get $block) (i32.const {blocks}))))
        (call $leave (i32.const {code})) (i32.const 0)"
    );
    command(&format!("{EXIT} {STDOUT}"), SAY, &run)
}

/// Copies its input to its output, until the end, with which it ends.
pub(crate) fn copies() -> Vec<u8> {
    let imports = format!(
        r#"{STDOUT}
        (import "wasi:cli/stdin@0.2.12" "get-stdin" (func $stdin (result i32)))
        (import "wasi:io/streams@0.2.12" "[method]input-stream.blocking-read" (func $read (param i32 i64 i32)))"#
    );
    // The allocator would come to the end of the memory if it did not begin anew.
    let run = "(local $input i32)
        (local.set $input (call $stdin))
        (block $end
            (loop $again
                (global.set $free (i32.const 65536))
                (call $read (local.get $input) (i64.const 4096) (i32.const 48))
                (br_if $end (i32.load8_u (i32.const 48)))
                (call $say (i32.load (i32.const 52)) (i32.load (i32.const 56)))
                (br $again)))
        (i32.const 0)";
    command(&imports, SAY, run)
}

/// Computes for ever on a request for another path than `/`, and traps on that.
pub(crate) fn serves_and_spins() -> Vec<u8> {
    let imports = r#"(import "wasi:http/types@0.2.12" "[method]incoming-request.path-with-query"
        (func $path (param i32 i32)))"#;
    let handle = r#"(func (export "wasi:http/incoming-handler@0.2.12#handle") (param i32 i32)
        (call $path (local.get 0) (i32.const 0))
        (if (i32.gt_u (i32.load (i32.const 8)) (i32.const 1)) (then (loop $again (br $again))))
        unreachable)"#;
    component("server", imports, handle)
}

/// A command that makes header fields, as for a request, and ends with 0.
pub(crate) fn uses_http() -> Vec<u8> {
    let imports = r#"(import "wasi:http/types@0.2.12" "[constructor]fields" (func $fields (result i32)))"#;
    let run = r#"(func (export "wasi:cli/run@0.2.12#run") (result i32) (drop (call $fields)) (i32.const 0))"#;
    component("client", imports, run)
}

/// A command that imports what no host of WASI has.
pub(crate) fn wants_a_stranger() -> Vec<u8> {
    let imports = r#"(import "host:extra/clock" "tick" (func $tick (result i32)))"#;
    let run = r#"(func (export "wasi:cli/run@0.2.12#run") (result i32) (drop (call $tick)) (i32.const 0))"#;
    component("stranger", imports, run)
}

/// A component that is no command.
pub(crate) fn library() -> Vec<u8> {
    component(
        "library",
        "",
        r#"(func (export "host:extra/clock#tick") (result i32) (i32.const 1))"#,
    )
}

/// A core module of these items.
pub(crate) fn module(items: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {items})")).unwrap_or_else(|error| panic!("{error}\n{items}"))
}

/// A module of WASI 0.1 that ends with 0, or 100 and the error of asking for a connection on its standard input.
pub(crate) fn module_that_accepts() -> Vec<u8> {
    module(
        r#"(import "wasi_snapshot_preview1" "proc_exit" (func $leave (param i32)))
        (import "wasi_snapshot_preview1" "sock_accept" (func $accept (param i32 i32 i32) (result i32)))
        (memory (export "memory") 1)
        (func (export "_start") (local $error i32)
            (local.set $error (call $accept (i32.const 0) (i32.const 0) (i32.const 0)))
            (if (local.get $error) (then (call $leave (i32.add (i32.const 100) (local.get $error))))))"#,
    )
}

/// A module that imports what no host of WASI has.
pub(crate) fn module_that_wants_a_stranger() -> Vec<u8> {
    module(r#"(import "host:extra" "tick" (func $tick)) (func (export "_start") (call $tick))"#)
}
