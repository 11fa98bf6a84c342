SUMMARY = "Latency of functions of running programs"
DESCRIPTION = "Measures how long functions of running programs take, by eBPF uprobes, without rebuilding or restarting them."
LICENSE = "(Apache-2.0 | MIT) & (BSD-2-Clause | GPL-2.0-only) & (LGPL-2.1-only | BSD-2-Clause) & (LGPL-3.0-or-later | GPL-2.0-or-later) & Zlib & MIT"
LIC_FILES_CHKSUM = "file://LICENSE-MIT;md5=07bdede0179556088f7e383975077162 \
                    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# A static binary that was built before, with a tool chain of its own; the configuration and what starts it.
FILESEXTRAPATHS:prepend := "${EDGELAT_DIST}/${TARGET_ARCH}:${EDGELAT_PROJECT}:${EDGELAT_PROJECT}/rootfs/etc:${EDGELAT_PROJECT}/rootfs/systemd:${EDGELAT_PROJECT}/rootfs/busybox:"
SRC_URI = "file://edgelat-firmware \
           file://edgelat.toml \
           file://edgelat.service \
           file://edgelat \
           file://LICENSE-MIT \
           file://LICENSE-APACHE"

# Releases before styhead unpack into WORKDIR.
UNPACKDIR ??= "${WORKDIR}"
S = "${UNPACKDIR}"

inherit systemd update-rc.d

COMPATIBLE_HOST = "(x86_64|aarch64).*-linux"
INHIBIT_DEFAULT_DEPS = "1"
INHIBIT_PACKAGE_STRIP = "1"
INHIBIT_PACKAGE_DEBUG_SPLIT = "1"
INSANE_SKIP:${PN} = "already-stripped"

SYSTEMD_SERVICE:${PN} = "edgelat.service"
INITSCRIPT_NAME = "edgelat"
INITSCRIPT_PARAMS = "defaults 60 40"
CONFFILES:${PN} = "${sysconfdir}/edgelat.toml"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0755 ${S}/edgelat-firmware ${D}${sbindir}/edgelat
    install -D -m 0644 ${S}/edgelat.toml ${D}${sysconfdir}/edgelat.toml
    install -D -m 0755 ${S}/edgelat ${D}${sysconfdir}/init.d/edgelat
    install -D -m 0644 ${S}/edgelat.service ${D}${systemd_system_unitdir}/edgelat.service
}

FILES:${PN} += "${systemd_system_unitdir}"
