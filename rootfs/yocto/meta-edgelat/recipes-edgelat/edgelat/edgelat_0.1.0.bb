SUMMARY = "Latency of functions of running programs"
DESCRIPTION = "Measures how long functions of running programs take, by eBPF uprobes, without rebuilding or restarting them."
LICENSE = "(Apache-2.0 | MIT) & (BSD-2-Clause | GPL-2.0-only) & (LGPL-2.1-only | BSD-2-Clause) & (LGPL-3.0-or-later | GPL-2.0-or-later) & Zlib & MIT"
LIC_FILES_CHKSUM = "file://LICENSE-MIT;md5=07bdede0179556088f7e383975077162 \
                    file://LICENSE-APACHE;md5=3b83ef96387f14655fc854ddc3c6bd57"

# Static binaries that were built before, with a tool chain of their own; the configuration and what starts them. With their folders,
# because the init script has the name of a binary.
FILESEXTRAPATHS:prepend := "${EDGELAT_DIST}:${EDGELAT_PROJECT}:"
SRC_URI = "file://${TARGET_ARCH}/edgelat-firmware \
           file://${TARGET_ARCH}/edgelat \
           file://rootfs/etc/edgelat.toml \
           file://rootfs/systemd/edgelat.service \
           file://rootfs/systemd/edgelat-upload.service \
           file://rootfs/busybox/edgelat \
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
INSANE_SKIP:${PN}-upload = "already-stripped"

SYSTEMD_PACKAGES = "${PN} ${PN}-upload"
SYSTEMD_SERVICE:${PN} = "edgelat.service"
SYSTEMD_SERVICE:${PN}-upload = "edgelat-upload.service"
INITSCRIPT_PACKAGES = "${PN} ${PN}-upload"
INITSCRIPT_NAME:${PN} = "edgelat"
INITSCRIPT_PARAMS:${PN} = "defaults 60 40"
INITSCRIPT_NAME:${PN}-upload = "edgelat-upload"
INITSCRIPT_PARAMS:${PN}-upload = "defaults 61 39"
CONFFILES:${PN} = "${sysconfdir}/edgelat.toml"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    install -D -m 0755 ${S}/${TARGET_ARCH}/edgelat-firmware ${D}${sbindir}/edgelat
    install -D -m 0644 ${S}/rootfs/etc/edgelat.toml ${D}${sysconfdir}/edgelat.toml
    install -D -m 0755 ${S}/rootfs/busybox/edgelat ${D}${sysconfdir}/init.d/edgelat
    install -D -m 0644 ${S}/rootfs/systemd/edgelat.service ${D}${systemd_system_unitdir}/edgelat.service
    install -D -m 0755 ${S}/${TARGET_ARCH}/edgelat ${D}${sbindir}/edgelat-upload
    install -D -m 0755 ${S}/rootfs/busybox/edgelat ${D}${sysconfdir}/init.d/edgelat-upload
    install -D -m 0644 ${S}/rootfs/systemd/edgelat-upload.service ${D}${systemd_system_unitdir}/edgelat-upload.service
}

# What sends the records is a package of its own, for who wants it.
PACKAGES =+ "${PN}-upload"
RDEPENDS:${PN}-upload = "${PN}"
FILES:${PN}-upload = "${sbindir}/edgelat-upload ${sysconfdir}/init.d/edgelat-upload ${systemd_system_unitdir}/edgelat-upload.service"

FILES:${PN} += "${systemd_system_unitdir}"
