#!/bin/sh
# Runs the embedded runner's tests under another kernel, for what the kernel at hand cannot show: control groups of version 2 alone,
# a delegated control group of an ordinary user, and a root file system that cannot be exchanged (an initial RAM disk).
#
#   user-mode-linux.sh KERNEL TEST_PROGRAM [disk|ramdisk]
#
# KERNEL is a User-Mode Linux, an ordinary program (Debian's package user-mode-linux has one, which runs where it is unpacked).
# TEST_PROGRAM is the library's test program, which `cargo test -p imgbuild --lib --no-run` names; run it once before, so that the
# test server is compiled. The machine's own files are the other kernel's, read-only. Exit code 0 where every test passed.
set -eu

[ $# -ge 2 ] || { sed -n '5s/^# *//p' "$0" >&2; exit 64; }
kernel=$(readlink -f "$1")
program=$(readlink -f "$2")
root=${3:-disk}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

cat >"$scratch/init" <<END
#!/bin/sh
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t cgroup2 groups /sys/fs/cgroup
mount -t tmpfs -o mode=1777 scratch /mnt
ip link set lo up
export TMPDIR=/mnt HOME=/mnt RUST_BACKTRACE=0
cd /mnt
echo "kernel \$(uname -r), controllers \$(cat /sys/fs/cgroup/cgroup.controllers), root \$(stat -f -c %T /)"

# As root, in the topmost group.
"$program" runner::tests::embedded --nocapture --test-threads=1 2>&1
# As root, in a group of a session.
mkdir /sys/fs/cgroup/session
echo \$\$ >/sys/fs/cgroup/session/cgroup.procs
"$program" runner::tests::embedded::limits --nocapture 2>&1
# As an ordinary user, in a group that was delegated to him as service managers do.
echo +cpu +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/user/shell
echo +cpu +memory >/sys/fs/cgroup/user/cgroup.subtree_control
chown 23456 /sys/fs/cgroup/user /sys/fs/cgroup/user/cgroup.procs /sys/fs/cgroup/user/cgroup.subtree_control
chown -R 23456 /sys/fs/cgroup/user/shell
echo \$\$ >/sys/fs/cgroup/user/shell/cgroup.procs
setpriv --reuid 23456 --regid 23456 --clear-groups "$program" runner::tests::embedded::limits --nocapture 2>&1
find /sys/fs/cgroup -name 'imgbuild-*' | sed 's/^/left over: /'
echo "the end"
sync
echo o >/proc/sysrq-trigger
sleep 60
END
chmod 755 "$scratch" "$scratch/init"

if [ "$root" = ramdisk ]; then
    # A disk of links into the machine's files, and a static busybox to make them.
    busybox=$(command -v busybox) || { echo "$0: a RAM disk needs a static busybox" >&2; exit 77; }
    build=$(dirname "$(dirname "$program")")
    mkdir "$scratch/disk"
    cp "$busybox" "$scratch/disk/busybox"
    cat >"$scratch/disk/init" <<END
#!/busybox sh
/busybox mkdir -p /host /proc /sys /dev /mnt /tmp "$(dirname "$build")"
/busybox mount -t hostfs -o / host /host
for name in bin sbin lib lib64 usr etc; do /busybox ln -s /host/\$name /\$name; done
/busybox ln -s "/host$build" "$build"
exec /bin/sh "/host$scratch/init"
END
    chmod 755 "$scratch/disk/init"
    (cd "$scratch/disk" && find . | "$busybox" cpio -o -H newc 2>/dev/null) >"$scratch/disk.cpio"
    set -- initrd="$scratch/disk.cpio" rdinit=/init
else
    set -- root=/dev/root rootfstype=hostfs rootflags=/ ro init="$scratch/init"
fi
"$kernel" mem=1G "$@" con0=fd:0,fd:1 con=null quiet </dev/null >"$scratch/log" 2>&1 || true
grep -a -e '^kernel ' -e '^test ' -e '^left over' -e panicked -e '^the end' "$scratch/log" || tail -n 30 "$scratch/log"
grep -aq '^the end' "$scratch/log" && ! grep -aq -e FAILED -e '^left over' "$scratch/log" && [ "$(grep -ac '^test result: ok' "$scratch/log")" = 3 ]
