#!/bin/sh
# install.sh - install byhash, its mount helper and its systemd services, or remove them again.
#
#     ./install.sh [--binary FILE]     install (FILE: the built program; default target/release/byhash)
#     ./install.sh --uninstall         remove what was installed; settings and cache stay
#
# Environment:
#     PREFIX    where programs go (default /usr/local)
#     UNITDIR   where systemd looks for units (default PREFIX/lib/systemd/system where it looks there,
#               which it does for /usr and /usr/local; else /etc/systemd/system)
#     SBINDIR   where mount(8) looks for helpers (default /sbin)
#     DESTDIR   put in front of every path, for packages (default empty)
set -eu

prefix=${PREFIX:-/usr/local}
sbindir=${SBINDIR:-/sbin}
destdir=${DESTDIR:-}
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
binary=$here/../target/release/byhash
uninstall=no

fail() {
    echo "install.sh: $1" >&2
    exit 1
}

while [ $# -gt 0 ]; do
    case $1 in
    --binary)
        [ $# -ge 2 ] || fail "--binary needs a file"
        binary=$2
        shift
        ;;
    --uninstall) uninstall=yes ;;
    -h | --help)
        sed -n '2,/^set /s/^# \{0,1\}//p' "$0"
        exit 0
        ;;
    *) fail "unknown argument '$1'; see --help" ;;
    esac
    shift
done

while [ "$prefix" != "${prefix%/}" ]; do prefix=${prefix%/}; done

case $prefix in
*[!A-Za-z0-9/._+-]*) fail "PREFIX '$prefix' has characters that a systemd unit cannot hold" ;;
/*) ;;
*) fail "PREFIX '$prefix' is not an absolute path" ;;
esac

case $prefix in
/usr | /usr/local) unitdir=${UNITDIR:-$prefix/lib/systemd/system} ;;
*) unitdir=${UNITDIR:-/etc/systemd/system} ;;
esac

program=$destdir$prefix/bin/byhash
helper=$destdir$sbindir/mount.byhash
unit=$destdir$unitdir/byhash.service
template=$destdir$unitdir/byhash@.service
example=$destdir$prefix/share/doc/byhash/byhash.toml
settings=$destdir/etc/byhash.toml

# Settings that nobody changed are removed with the example; others are kept.
if [ "$uninstall" = yes ]; then
    if [ -f "$settings" ] && [ -f "$example" ] && cmp -s "$settings" "$example"; then
        rm -f "$settings"
    fi
    if [ -z "$destdir" ] && [ -n "$(find /etc/systemd/system -name 'byhash*.service' -type l 2>/dev/null)" ]; then
        echo "enabled services stay so: systemctl disable --now byhash (and byhash@...)" >&2
    fi
    for file in "$program" "$helper" "$unit"; do
        [ -e "$file" ] || echo "not there: $file (PREFIX, SBINDIR and UNITDIR must be as when it was installed)" >&2
    done
    rm -f "$program" "$helper" "$unit" "$template" "$example"
    rmdir "$(dirname "$example")" 2>/dev/null || :
    [ ! -e "$settings" ] || echo "kept: $settings"
    [ ! -e "$destdir/var/lib/byhash" ] || echo "kept: $destdir/var/lib/byhash (key and cache)"
    exit 0
fi

[ -f "$binary" ] || fail "there is no program '$binary'; build it with 'cargo build --release', or name it with --binary"

# put MODE SOURCE TARGET: installs a file, with the prefix filled in where it is a text of ours.
put() {
    mkdir -p "$(dirname "$3")"
    case $2 in
    "$binary") cp "$2" "$3.new" ;;
    *) sed "s|@PREFIX@|$prefix|g" "$2" >"$3.new" ;;
    esac
    chmod "$1" "$3.new"
    mv -f "$3.new" "$3"
    echo "installed: $3"
}

put 755 "$binary" "$program"
put 755 "$here/mount.byhash" "$helper"
put 644 "$here/byhash.service" "$unit"
put 644 "$here/byhash@.service" "$template"
put 644 "$here/byhash.toml" "$example"
[ -e "$settings" ] || put 644 "$here/byhash.toml" "$settings"

if [ -z "$destdir" ]; then
    echo "next: edit $settings, then: systemctl daemon-reload && systemctl enable --now byhash"
fi
