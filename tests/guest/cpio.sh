#!/bin/sh
# cpio.sh PROGRAMS OUT [MODULE.ko...]: packs the guest test programs into an
# initramfs archive with the bring-up init as /init. The same input gives the
# same bytes. Modules are loaded by the init in the order given.
set -eu

programs=$1
out=$2
shift 2

stage=$(mktemp -d "$out.XXXXXX")
trap 'rm -rf "$stage"' EXIT
chmod 755 "$stage"
mkdir -p "$stage/dev" "$stage/proc" "$stage/sys" "$stage/tmp" "$stage/opt/ramet-tests"

cp -P "$programs"/* "$stage/opt/ramet-tests/"
mv "$stage/opt/ramet-tests/init" "$stage/init"
if [ $# -gt 0 ]; then
	mkdir "$stage/opt/ramet-tests/modules"
	for module; do
		cp "$module" "$stage/opt/ramet-tests/modules/"
		# Newer kernels refuse guests their own hypercalls without this.
		case $module in
		*/xen-privcmd.ko) parameters=" unrestricted=1" ;;
		*) parameters= ;;
		esac
		echo "$(basename "$module")$parameters" >>"$stage/opt/ramet-tests/modules/list"
	done
fi
find "$stage" -exec touch -h -d @0 {} +
(cd "$stage" && find . | LC_ALL=C sort |
	cpio --quiet --reproducible -o -H newc -R 0:0) >"$stage.out"
mv "$stage.out" "$out"
