# What package/edgelat/edgelat.mk asks of Buildroot, as far as it goes: `make -f buildroot.mk BR2_EXTERNAL_EDGELAT_PATH=... DIST=...
# BR2_ARCH=... TARGET_DIR=... DOT_CONFIG=... install`. Shows what is installed where and what becomes of a kernel's configuration.
INSTALL := install
qstrip = $(strip $(subst ",,$(1)))
generic-package =
BR2_PACKAGE_EDGELAT_DIST := "$(DIST)"
BR2_PACKAGE_EDGELAT_CONFIG := "$(BR2_EXTERNAL_EDGELAT_PATH)/../etc/edgelat.toml"
# Buildroot's are lines of sed, one a call, that leave exactly one line for the option (support/misc/utils.mk).
KCONFIG_ENABLE_OPT = sed -i '/\<$(1)\>/d' $(DOT_CONFIG) && echo '$(1)=y' >> $(DOT_CONFIG)
KCONFIG_DISABLE_OPT = sed -i '/\<$(1)\>/d' $(DOT_CONFIG) && echo '\# $(1) is not set' >> $(DOT_CONFIG)

include $(BR2_EXTERNAL_EDGELAT_PATH)/external.mk

.PHONY: install
# $(@D) is the folder of the sources in Buildroot, which names its targets so that it is.
$(EDGELAT_SITE)/.installed:
	$(EDGELAT_LINUX_CONFIG_FIXUPS)
	$(EDGELAT_INSTALL_TARGET_CMDS)
	$(EDGELAT_INSTALL_INIT_SYSV)
	$(EDGELAT_INSTALL_INIT_SYSTEMD)
.PHONY: $(EDGELAT_SITE)/.installed
install: $(EDGELAT_SITE)/.installed
