include $(sort $(wildcard $(BR2_EXTERNAL_EDGELAT_PATH)/package/*/*.mk))
