# api/: rametd, ramet.

CLI_LIBS += -lcurl -lxxhash
# ramet doctor tries what the lower floors use.
CLI_EXTRA_SRC := uffd/uffd_check.c bpf/bpf_check.c engine/template.c $(wildcard vmm/probe*.c)
