/*
 * store_c.h - the C API of upstream's store client, as this library has it.
 *
 * Generated from src/capi/upstream/store by tests/store_header.rs; changes here are overwritten.
 *
 * For programs written against upstream's header of the same name: names, layouts and numbers are
 * upstream's. New programs use mooncake.h, which also has batches of several ranges, buffers that
 * are lent, and the reasons of failures.
 *
 * Return values: 0 or a negative number, sizes and counts are positive. -1 a pointer or handle that
 * cannot be right, or a defect; -200 no space in the pool; -600 a wrong argument, or the store is
 * not set up; -703 the object is not complete; -704 no such object; -706 leased; -707 the lease
 * ended during the copy; -800 the bytes could not be moved; -900 the master does not answer.
 * mc_last_error_message of mooncake.h tells the cause of the calling thread's last failure.
 *
 * Texts and arrays are read during the call only. Every function may be called from any thread.
 */
#ifndef MOONCAKE_STORE_C_H
#define MOONCAKE_STORE_C_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif
/** A client of the store; made by mooncake_store_create. */
typedef void *mooncake_store_t;

/** What is asked of a put beside the bytes. */
struct mooncake_replicate_config {
    /** Copies, each in another segment; at least 1. */
    size_t replica_num;
    /** Not 0: evict the object last. */
    int with_soft_pin;
    /** Not 0: never evict the object; masters of ours only. */
    int with_hard_pin;
    /** Names of segments to try first; may be NULL. */
    const char **preferred_segments;
    /** How many. */
    size_t preferred_segments_count;
};

/** The same type by its short name. */
typedef struct mooncake_replicate_config mooncake_replicate_config_t;

/**
 * Makes a client that is not set up yet.
 *
 * @return the client, owned by the caller until mooncake_store_destroy; NULL on failure.
 */
mooncake_store_t mooncake_store_create(void);

/**
 * Destroys a client: takes its memory out of the pool and lets go of it. Destroying a client
 * twice, or NULL, does nothing.
 *
 * @param store  the client; the handle is invalid afterwards.
 */
void mooncake_store_destroy(mooncake_store_t store);

/**
 * Says which files TLS to an etcd metadata service uses; before mooncake_store_setup.
 *
 * @param store      the client.
 * @param ca_file    authorities; NULL or empty for none.
 * @param cert_file  own certificate, as ca_file.
 * @param key_file   its key, as ca_file.
 * @return 0; -600 after mooncake_store_setup; -1 for a wrong pointer.
 */
int mooncake_store_set_etcd_tls_config(mooncake_store_t store,
                                       const char *ca_file,
                                       const char *cert_file,
                                       const char *key_file);

/**
 * Sets a client up: allocates and mounts its memory. A second call replaces the client inside,
 * with all it held.
 *
 * @param store                the client.
 * @param local_hostname       its name, "host" or "host:port".
 * @param metadata_server      where engines find each other, "P2PHANDSHAKE" or an address.
 * @param global_segment_size  memory given to the pool; 0 for none.
 * @param local_buffer_size    accepted; memory of the caller is used where it is.
 * @param protocol             "tcp"; NULL or empty is the same.
 * @param device_name          adapters, separated by commas; may be NULL.
 * @param master_server_addr   the master, "host:port".
 * @return 0; -600 when the master or the metadata service cannot be reached or an argument is
 *         wrong; another negative number when the memory cannot be mounted.
 */
int mooncake_store_setup(mooncake_store_t store,
                         const char *local_hostname,
                         const char *metadata_server,
                         uint64_t global_segment_size,
                         uint64_t local_buffer_size,
                         const char *protocol,
                         const char *device_name,
                         const char *master_server_addr);

/**
 * Sets a client up with upstream's fixed addresses for tests: localhost, etcd at 2379, the master
 * at 50051, and a local buffer of 16 MiB.
 *
 * @param store               the client.
 * @param protocol            as in mooncake_store_setup.
 * @param device_name         as in mooncake_store_setup.
 * @param mount_segment_size  memory given to the pool.
 * @return as mooncake_store_setup.
 */
int mooncake_store_init_all(mooncake_store_t store,
                            const char *protocol,
                            const char *device_name,
                            uint64_t mount_segment_size);

/**
 * Tells whether a client is usable.
 *
 * @param store  the client.
 * @return 0 when it is; 1 when it is not set up; 2 when the master does not answer; -1 for a wrong
 *         handle.
 */
int mooncake_store_health_check(mooncake_store_t store);

/**
 * Copies the name of a client, "host:port".
 *
 * @param store    the client.
 * @param buf_out  receives the name, NUL-terminated.
 * @param buf_len  its room, with the NUL.
 * @return 0; -600 when it is not set up or the room is too small; -1 for a wrong pointer.
 */
int mooncake_store_get_hostname(mooncake_store_t store, char *buf_out, size_t buf_len);

/**
 * Registers memory that objects are put from and got into.
 *
 * @param store   the client.
 * @param buffer  its first byte.
 * @param size    its length.
 * @return 0; -600 for NULL, size 0, and memory that is registered already.
 */
int mooncake_store_register_buffer(mooncake_store_t store, void *buffer, size_t size);

/**
 * Takes that back.
 *
 * @param store   the client.
 * @param buffer  as it was registered.
 * @return 0; -600 when it is not registered.
 */
int mooncake_store_unregister_buffer(mooncake_store_t store, void *buffer);

/**
 * Puts one object. An object that exists is not changed, and that is a success.
 *
 * @param store   the client.
 * @param key     name of the object.
 * @param value   its bytes; any memory.
 * @param size    how many.
 * @param config  NULL for the defaults.
 * @return 0; -200 without room in the pool; -600 for a wrong argument, also for 0 bytes; -703 when
 *         another put of the key is not complete; -800 when the bytes could not be moved; -900
 *         without a master; -1 for a wrong pointer.
 */
int mooncake_store_put(mooncake_store_t store,
                       const char *key,
                       const void *value,
                       size_t size,
                       const mooncake_replicate_config_t *config);

/**
 * Puts one object from registered memory. As mooncake_store_put, but 0 bytes are a success that
 * stores nothing.
 *
 * @param store, key, config  as in mooncake_store_put.
 * @param buffer  its bytes.
 * @param size    how many.
 * @return as mooncake_store_put.
 */
int mooncake_store_put_from(mooncake_store_t store,
                            const char *key,
                            void *buffer,
                            size_t size,
                            const mooncake_replicate_config_t *config);

/**
 * Puts many objects from registered memory.
 *
 * @param store        the client.
 * @param keys         names.
 * @param buffers      bytes of each.
 * @param sizes        how many of each.
 * @param count        how many objects.
 * @param config       for all; NULL for the defaults.
 * @param results_out  receives what mooncake_store_put would return, for each.
 * @return 0 when results_out was filled; -600 or -1 when nothing was done.
 */
int mooncake_store_batch_put_from(mooncake_store_t store,
                                  const char *const *keys,
                                  void *const *buffers,
                                  const size_t *sizes,
                                  size_t count,
                                  const mooncake_replicate_config_t *config,
                                  int *results_out);

/**
 * Reads one object into memory of the caller.
 *
 * @param store   the client.
 * @param key     name of the object.
 * @param buffer  receives the bytes.
 * @param size    its room.
 * @return the object's size; -600 when it is larger; -703 when it is not complete; -704 without
 *         it; -707 when its lease ended; -800; -900; -1 for a wrong pointer.
 */
int64_t mooncake_store_get_into(mooncake_store_t store, const char *key, void *buffer, size_t size);

/**
 * Reads many objects into memory of the caller.
 *
 * @param store        the client.
 * @param keys         names.
 * @param buffers      where the bytes of each go.
 * @param sizes        room for each.
 * @param count        how many objects.
 * @param results_out  receives what mooncake_store_get_into would return, for each.
 * @return 0 when results_out was filled; -600 or -1 when nothing was done.
 */
int mooncake_store_batch_get_into(mooncake_store_t store,
                                  const char *const *keys,
                                  void *const *buffers,
                                  const size_t *sizes,
                                  size_t count,
                                  int64_t *results_out);

/**
 * Tells whether an object exists and is complete. Takes a lease on it if it does.
 *
 * @param store  the client.
 * @param key    name of the object.
 * @return 1 or 0; -600; -900; -1 for a wrong pointer.
 */
int mooncake_store_is_exist(mooncake_store_t store, const char *key);

/**
 * As mooncake_store_is_exist, for many.
 *
 * @param store        the client.
 * @param keys         names.
 * @param count        how many.
 * @param results_out  receives what mooncake_store_is_exist would return, for each.
 * @return 0 when results_out was filled; -600, -900 or -1 when nothing was done.
 */
int mooncake_store_batch_is_exist(mooncake_store_t store,
                                  const char *const *keys,
                                  size_t count,
                                  int *results_out);

/**
 * Tells the size of an object. Takes a lease on it.
 *
 * @param store  the client.
 * @param key    name of the object.
 * @return the size; -703; -704; -900; -1 for a wrong pointer.
 */
int64_t mooncake_store_get_size(mooncake_store_t store, const char *key);

/**
 * Removes one object.
 *
 * @param store  the client.
 * @param key    name of the object.
 * @param force  not 0: also when readers hold a lease; masters of ours only.
 * @return 0; -703 when it is not complete; -704 without it; -706 with a lease; -900; -1 for a
 *         wrong pointer.
 */
int mooncake_store_remove(mooncake_store_t store, const char *key, int force);

/**
 * Removes all objects in whose name a regular expression is found.
 *
 * @param store    the client.
 * @param pattern  the expression.
 * @param force    as in mooncake_store_remove.
 * @return how many were removed; -600 for a wrong expression; -900; -1 for a wrong pointer.
 */
int64_t mooncake_store_remove_by_regex(mooncake_store_t store, const char *pattern, int force);

/**
 * Removes all objects that are not leased.
 *
 * @param store  the client.
 * @param force  as in mooncake_store_remove.
 * @return how many were removed; -900; -1 for a wrong handle.
 */
int64_t mooncake_store_remove_all(mooncake_store_t store, int force);

#ifdef __cplusplus
} /* extern "C" */
#endif

#endif /* MOONCAKE_STORE_C_H */
