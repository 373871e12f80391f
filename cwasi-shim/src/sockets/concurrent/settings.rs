//! Options of a socket, as WASI 0.3 names them.

use wasmtime::component::LinkerInstance;
use wasmtime_wasi::p3::bindings::sockets::types::ErrorCode;

use super::{code, getter, method};
use crate::sockets::options;
use crate::state::GuestState;

pub(super) fn keep_alive(types: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    getter(types, "get-keep-alive-enabled", |socket| {
        socket.settings().map_err(code)?;
        Ok::<_, ErrorCode>(socket.keep_alive().enabled())
    })?;
    method(types, "set-keep-alive-enabled", |socket, enabled: bool| {
        socket
            .change_keep_alive(|keep_alive, fd| keep_alive.set_enabled(fd, enabled))
            .map_err(code)
    })?;
    getter(types, "get-keep-alive-idle-time", |socket| {
        let keep_alive = socket.keep_alive();
        socket
            .settings()
            .and_then(|fd| keep_alive.idle_time(fd))
            .map_err(code)
    })?;
    // What no option can be is refused in every state, also where there is nothing to set.
    method(types, "set-keep-alive-idle-time", |socket, nanos: u64| {
        options::not_zero(nanos)
            .and_then(|()| socket.change_keep_alive(|keep_alive, fd| keep_alive.set_idle_time(fd, nanos)))
            .map_err(code)
    })?;
    getter(types, "get-keep-alive-interval", |socket| {
        socket
            .settings()
            .and_then(options::keep_alive_interval)
            .map_err(code)
    })?;
    method(types, "set-keep-alive-interval", |socket, nanos: u64| {
        options::not_zero(nanos)
            .and_then(|()| options::set_keep_alive_interval(socket.settings()?, nanos))
            .map_err(code)
    })?;
    getter(types, "get-keep-alive-count", |socket| {
        socket
            .settings()
            .and_then(options::keep_alive_count)
            .map_err(code)
    })?;
    method(types, "set-keep-alive-count", |socket, count: u32| {
        options::not_zero(count.into())
            .and_then(|()| options::set_keep_alive_count(socket.settings()?, count))
            .map_err(code)
    })
}

pub(super) fn sizes(types: &mut LinkerInstance<'_, GuestState>) -> wasmtime::Result<()> {
    getter(types, "get-hop-limit", |socket| {
        let family = socket.family();
        socket
            .settings()
            .and_then(|fd| options::hop_limit(fd, family))
            .map_err(code)
    })?;
    method(types, "set-hop-limit", |socket, hops: u8| {
        let family = socket.family();
        socket
            .settings()
            .and_then(|fd| options::set_hop_limit(fd, family, hops))
            .map_err(code)
    })?;
    getter(types, "get-receive-buffer-size", |socket| {
        socket
            .settings()
            .and_then(options::receive_buffer_size)
            .map_err(code)
    })?;
    method(types, "set-receive-buffer-size", |socket, bytes: u64| {
        socket
            .settings()
            .and_then(|fd| options::set_receive_buffer_size(fd, bytes))
            .map_err(code)
    })?;
    getter(types, "get-send-buffer-size", |socket| {
        socket
            .settings()
            .and_then(options::send_buffer_size)
            .map_err(code)
    })?;
    method(types, "set-send-buffer-size", |socket, bytes: u64| {
        socket
            .settings()
            .and_then(|fd| options::set_send_buffer_size(fd, bytes))
            .map_err(code)
    })
}
