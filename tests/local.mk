# Which tests exist. `make check` needs nothing but a compiler and cmocka; ./check runs all.
AM_TESTS_ENVIRONMENT = export top_srcdir='$(top_srcdir)' top_builddir='$(abs_top_builddir)';

dist_check_SCRIPTS = tests/layers.sh
TESTS += tests/layers.sh

if HAVE_CMOCKA
UNIT_TESTS = tests/test_base tests/test_frame tests/test_json tests/test_wire tests/test_policy \
	tests/test_network tests/test_entry tests/test_names tests/test_progress tests/test_framing
check_PROGRAMS += $(UNIT_TESTS)
TESTS += $(UNIT_TESTS)
endif
tests_test_base_SOURCES = tests/test_base.c
tests_test_base_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_base_LDADD = libbase.a $(CMOCKA_LIBS)
tests_test_frame_SOURCES = tests/test_frame.c
tests_test_frame_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_frame_LDADD = libwall.a libbase.a $(CMOCKA_LIBS)
tests_test_json_SOURCES = tests/test_json.c
tests_test_json_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_json_LDADD = libkernel.a libbase.a $(CMOCKA_LIBS)
tests_test_names_SOURCES = tests/test_names.c
tests_test_names_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_names_LDADD = libkernel.a libbase.a $(CMOCKA_LIBS)
tests_test_progress_SOURCES = tests/test_progress.c
tests_test_progress_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_progress_LDADD = libkernel.a libbase.a $(CMOCKA_LIBS)
tests_test_wire_SOURCES = tests/test_wire.c
tests_test_wire_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS) $(libkernel_a_CFLAGS)
tests_test_wire_LDADD = $(KERNEL_LIBS) $(CMOCKA_LIBS) $(CRYPTO_LIBS) # to sign as others do
tests_test_policy_SOURCES = tests/test_policy.c sandbox/policy.c
tests_test_policy_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_policy_LDADD = libwall.a libbase.a $(CMOCKA_LIBS)
tests_test_framing_SOURCES = tests/test_framing.c serve/framing.c
tests_test_framing_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_framing_LDADD = libbase.a $(CMOCKA_LIBS)
network_files = sandbox/aliases.c sandbox/dns.c sandbox/hello.c
tests_test_network_SOURCES = tests/test_network.c $(network_files)
tests_test_network_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_network_LDADD = libwall.a libbase.a $(CMOCKA_LIBS)
tests_test_entry_SOURCES = tests/test_entry.c image/entry.c
tests_test_entry_CFLAGS = $(AM_CFLAGS) $(CMOCKA_CFLAGS)
tests_test_entry_LDADD = libbase.a $(CMOCKA_LIBS)

# --- fuzzers: one for each parser of foreign bytes. ./configure --enable-fuzzing CC=clang
FUZZ_SECONDS = 60
FUZZ_FLAGS = -fsanitize=fuzzer
FUZZERS = tests/fuzz_frame tests/fuzz_json tests/fuzz_wire tests/fuzz_conn tests/fuzz_timeline \
	tests/fuzz_dns tests/fuzz_hello tests/fuzz_image tests/fuzz_names tests/fuzz_progress tests/fuzz_framing tests/fuzz_intake
if FUZZING
noinst_PROGRAMS += $(FUZZERS)
endif
tests_fuzz_frame_SOURCES = tests/fuzz_frame.c
tests_fuzz_frame_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_frame_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_frame_LDADD = libwall.a libbase.a
tests_fuzz_json_SOURCES = tests/fuzz_json.c
tests_fuzz_json_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_json_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_json_LDADD = libkernel.a libbase.a
tests_fuzz_names_SOURCES = tests/fuzz_names.c
tests_fuzz_names_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_names_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_names_LDADD = libkernel.a libbase.a
tests_fuzz_progress_SOURCES = tests/fuzz_progress.c
tests_fuzz_progress_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_progress_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_progress_LDADD = libkernel.a libbase.a
tests_fuzz_intake_SOURCES = tests/fuzz_intake.c
tests_fuzz_intake_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_intake_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_intake_LDADD = libkernel.a libwall.a libbase.a
tests_fuzz_wire_SOURCES = tests/fuzz_wire.c
tests_fuzz_wire_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_wire_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_wire_LDADD = $(KERNEL_LIBS)
tests_fuzz_conn_SOURCES = tests/fuzz_conn.c
tests_fuzz_conn_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_conn_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_conn_LDADD = $(KERNEL_LIBS)
tests_fuzz_timeline_SOURCES = tests/fuzz_timeline.c
tests_fuzz_timeline_CFLAGS = $(libkernel_a_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_timeline_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_timeline_LDADD = $(KERNEL_LIBS)
tests_fuzz_dns_SOURCES = tests/fuzz_dns.c sandbox/dns.c
tests_fuzz_dns_CFLAGS = $(AM_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_dns_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_dns_LDADD = libwall.a libbase.a
tests_fuzz_hello_SOURCES = tests/fuzz_hello.c sandbox/hello.c
tests_fuzz_hello_CFLAGS = $(AM_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_hello_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_hello_LDADD = libwall.a libbase.a
tests_fuzz_image_SOURCES = tests/fuzz_image.c image/entry.c image/layout.c image/digest.c
tests_fuzz_image_CFLAGS = $(AM_CFLAGS) $(JANSSON_CFLAGS) $(CRYPTO_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_image_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_image_LDADD = libbase.a $(JANSSON_LIBS) $(CRYPTO_LIBS)

tests_fuzz_framing_SOURCES = tests/fuzz_framing.c serve/framing.c
tests_fuzz_framing_CFLAGS = $(AM_CFLAGS) $(FUZZ_FLAGS)
tests_fuzz_framing_LDFLAGS = $(AM_LDFLAGS) $(FUZZ_FLAGS)
tests_fuzz_framing_LDADD = libbase.a

# Each a target of its own, for make -j.
fuzz: $(FUZZERS:%=%.run)
$(FUZZERS:%=%.run): %.run: %
	@./$< -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 -timeout=10 -rss_limit_mb=4096 \
	  >$<.log 2>&1 || { tail -30 $<.log; exit 1; }
	@echo "$<: $$(grep number_of_executed_units $<.log)"
.PHONY: fuzz $(FUZZERS:%=%.run)
CLEANFILES += tests/*.log

# Python tests are listed by pattern: a new one must not be forgotten (GNU make is required).
EXTRA_DIST += tests/make-image.sh tests/requirements.txt $(patsubst $(srcdir)/%,%,$(wildcard $(srcdir)/tests/*.py $(srcdir)/tests/browser/*.* $(srcdir)/tests/cells/*.ipy))
