#!/bin/busybox sh
# The first process of a kernel under test: mounts what tests need, runs each of them, and reports on the second serial line.
# /suites, /cwasi-agent, /modules and /sbin come from `cargo xtask test --kernel`.
/bin/busybox --install -s /bin
export PATH=/sbin:/bin HOME=/ RUST_BACKTRACE=0
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t tmpfs run /run
mkdir /run/netns
mount -t cgroup2 cgroup2 /sys/fs/cgroup
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mount -t bpf bpf /sys/fs/bpf
mount -t securityfs security /sys/kernel/security
while read -r module; do insmod "/modules/$module"; done </modules/order
ip link set lo up
# Tests with a thousand connections hold both ends of each.
ulimit -n 65536
exec >/dev/ttyS1 2>&1
stty raw

# $threads, $patience and $effort come from the kernel's command line.
export RUST_TEST_THREADS="$threads" CWASI_TEST_PATIENCE="$patience" CWASI_TEST_EFFORT="$effort"
# Nothing else runs here: tests may change the clock and the limits of the whole machine.
export CWASI_TEST_MACHINE=own
echo "@release $(uname -r)"
echo "@probe"
/bin/cwasi-agent probe -o json
echo "@probed"
run() {
    echo "@suite $1"
    "/suites/$1"
    echo "@exit $? $(cut -d ' ' -f 1 /proc/uptime)"
}
for suite in /suites/*; do
    [ "${suite##*/}" = kernel_locked ] || run "${suite##*/}"
done
if [ -e /suites/kernel_locked ]; then
    # Not to be taken back before a reboot.
    echo confidentiality >/sys/kernel/security/lockdown
    run kernel_locked
fi
# Kernel objects outlive their makers: what is left shows that a test did not clean up after itself.
ls -d /sys/fs/bpf/* /sys/fs/cgroup/cwasi/* 2>/dev/null | sed 's/^/@left /'
echo "@end"
poweroff -f
