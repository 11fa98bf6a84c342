# What the agent wants of the kernel; a kernel of another name gets a copy of this file under its own.
FILESEXTRAPATHS:prepend := "${THISDIR}/files:"
SRC_URI:append = " file://edgelat.cfg"

# BTF is made by pahole, which has to be there when the kernel is configured; kernel.bbclass says that there is none.
DEPENDS:append = " pahole-native"
do_kernel_configme[depends] += "pahole-native:do_populate_sysroot"
EXTRA_OEMAKE:remove = "PAHOLE=false"
