# What rules.mk and package.mk of OpenWrt are to edgelat/Makefile, as far as it goes: `make -C rootfs/openwrt/edgelat TOPDIR=FOLDER
# INCLUDE_DIR=FOLDER EDGELAT_DIST=... ARCH=... OUT=... install-PACKAGE`, where FOLDER has this file as package.mk and an empty rules.mk.
INSTALL_DIR := install -d -m 0755
INSTALL_BIN := install -m 0755
INSTALL_CONF := install -m 0600

define BuildPackage
.PHONY: install-$(1)
install-$(1):
	$(call Package/$(1)/install,$(OUT))
endef
