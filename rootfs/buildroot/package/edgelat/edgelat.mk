################################################################################
#
# edgelat
#
################################################################################

# Of a folder that was built and not of sources: a static binary without a tool chain of Buildroot's. Nothing is downloaded, so
# there is no edgelat.hash.
EDGELAT_VERSION = 0.1.0
EDGELAT_SITE = $(call qstrip,$(BR2_PACKAGE_EDGELAT_DIST))
EDGELAT_SITE_METHOD = local
EDGELAT_LICENSE = Apache-2.0 or MIT, BSD-2-Clause or GPL-2.0 (BPF programs), \
	LGPL-2.1 or BSD-2-Clause (libbpf), LGPL-3.0+ or GPL-2.0+ (libelf), Zlib (zlib), MIT (musl)

EDGELAT_ROOTFS = $(BR2_EXTERNAL_EDGELAT_PATH)/..

# One list of what the kernel must have, for everybody.
EDGELAT_KERNEL_ON = $(shell sed -n 's/^\(CONFIG_[A-Z0-9_]*\)=y$$/\1/p' $(EDGELAT_ROOTFS)/kernel/edgelat.config)
EDGELAT_KERNEL_OFF = $(shell sed -n 's/^\# \(CONFIG_[A-Z0-9_]*\) is not set$$/\1/p' $(EDGELAT_ROOTFS)/kernel/edgelat.config)

define EDGELAT_LINUX_CONFIG_FIXUPS
	$(foreach option,$(EDGELAT_KERNEL_ON),$(call KCONFIG_ENABLE_OPT,$(option))
	)
	$(foreach option,$(EDGELAT_KERNEL_OFF),$(call KCONFIG_DISABLE_OPT,$(option))
	)
endef

ifeq ($(BR2_PACKAGE_EDGELAT_UPLOAD),y)
define EDGELAT_INSTALL_UPLOAD
	$(INSTALL) -D -m 0755 $(@D)/$(BR2_ARCH)/edgelat $(TARGET_DIR)/usr/sbin/edgelat-upload
endef
define EDGELAT_INSTALL_UPLOAD_SYSV
	$(INSTALL) -D -m 0755 $(EDGELAT_ROOTFS)/busybox/edgelat $(TARGET_DIR)/etc/init.d/S61edgelat-upload
endef
define EDGELAT_INSTALL_UPLOAD_SYSTEMD
	$(INSTALL) -D -m 0644 $(EDGELAT_ROOTFS)/systemd/edgelat-upload.service \
		$(TARGET_DIR)/usr/lib/systemd/system/edgelat-upload.service
endef
endif

define EDGELAT_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 $(@D)/$(BR2_ARCH)/edgelat-firmware $(TARGET_DIR)/usr/sbin/edgelat
	$(INSTALL) -D -m 0644 $(call qstrip,$(BR2_PACKAGE_EDGELAT_CONFIG)) $(TARGET_DIR)/etc/edgelat.toml
	$(EDGELAT_INSTALL_UPLOAD)
endef

define EDGELAT_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(EDGELAT_ROOTFS)/busybox/edgelat $(TARGET_DIR)/etc/init.d/S60edgelat
	$(EDGELAT_INSTALL_UPLOAD_SYSV)
endef

define EDGELAT_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(EDGELAT_ROOTFS)/systemd/edgelat.service \
		$(TARGET_DIR)/usr/lib/systemd/system/edgelat.service
	$(EDGELAT_INSTALL_UPLOAD_SYSTEMD)
endef

$(eval $(generic-package))
